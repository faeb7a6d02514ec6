// Text for people: what comes from outside made fit for a terminal, and spans of time.

/** Control characters, and what turns the direction of text: they steer a terminal, hide what stands beside them, or fake a line. */
const STEERS = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** The text with control characters written as `\u001b`; line breaks and tabs, too. */
export function printable(text: string): string {
  return text.replace(STEERS, escaped);
}

/** The same, but line breaks and tabs stay. */
export function printableLines(text: string): string {
  return text.replace(STEERS, (character) =>
    character === "\n" || character === "\t" ? character : escaped(character),
  );
}

/** At most so many characters of a text; `…` marks that it was longer. */
export function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** `4m 02s`, `3h 05m`, `2d 04h`, `12s`: milliseconds as their two largest units. */
export function duration(ms: number): string {
  const total = Math.max(0, Math.floor(ms / 1000));
  const two = (n: number) => String(n).padStart(2, "0");
  const [days, hours, minutes, seconds] = [
    Math.floor(total / 86_400),
    Math.floor((total % 86_400) / 3600),
    Math.floor((total % 3600) / 60),
    total % 60,
  ];
  if (days > 0) return `${days}d ${two(hours)}h`;
  if (hours > 0) return `${hours}h ${two(minutes)}m`;
  return minutes > 0 ? `${minutes}m ${two(seconds)}s` : `${seconds}s`;
}
