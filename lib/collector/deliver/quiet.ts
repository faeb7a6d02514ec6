// Quiet hours: `22:00-07:00 Europe/Berlin`, every day, by the wall clock of that time zone. Where summer time moves the clock, so do they.

/** Prints as it was written (`toString`, `toJSON`). */
export interface Quiet {
  /** Whether a time, in milliseconds since 1970, is within them: from the first minute to before the last. */
  holds(now: number): boolean;
  toString(): string;
  toJSON(): string;
}

export const QUIET = 'expected hours and a time zone, such as "22:00-07:00 Europe/Berlin"';

/** Without a time zone, this machine's counts. @throws Error. */
export function readQuiet(text: string): Quiet {
  const [, begin = "", end = "", zone] =
    /^((?:[01]?\d|2[0-3]):[0-5]\d)-((?:[01]?\d|2[0-3]):[0-5]\d)(?: +(\S+))?$/.exec(text.trim()) ?? [];
  if (begin === "") throw new Error(QUIET);
  const [from, to] = [minutes(begin), minutes(end)];
  if (from === to) throw new Error(`"${text}" begins when it ends: such hours are never quiet`);
  const clock = clockOf(zone);
  const holds = (now: number): boolean => {
    const at = minutes(clock.format(now));
    return from < to ? from <= at && at < to : from <= at || at < to;
  };
  return { holds, toString: () => text, toJSON: () => text };
}

function minutes(time: string): number {
  const [hours, rest] = time.split(":").map(Number);
  return hours! * 60 + rest!;
}

function clockOf(timeZone: string | undefined): Intl.DateTimeFormat {
  try {
    return new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone });
  } catch {
    throw new Error(`"${timeZone}" is not a time zone, such as Europe/Berlin`);
  }
}
