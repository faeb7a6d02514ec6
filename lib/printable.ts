// Text from outside, made fit for a terminal: nothing in it may steer one, hide what stands beside it, or look like another line.

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
