export const parseJson = (t: string): unknown => JSON.parse(t);
