export class TemplateError extends Error {}
export interface Template {
  render(data: unknown, context: unknown): string;
  toJSON(): string;
}
export function compileTemplate(source: string): Template {
  return {
    toJSON: () => source,
    render: (data, context) =>
      source.replace(/\{\{(.*?)\}\}/g, (_, e: string) => {
        e = e.trim();
        const get = (p: string) =>
          p
            .split(".")
            .filter(Boolean)
            .reduce((x: any, k) => x?.[k], data as any);
        if (e.startsWith("json")) return JSON.stringify(data);
        if (e.startsWith("len")) return String(get(e.slice(4)).length);
        const r = get(e);
        if (r === undefined) {
          if ((context as any).missing === "error") throw new TemplateError("missing");
          return "<no value>";
        }
        return String(r);
      }),
  };
}
