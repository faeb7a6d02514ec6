// Fingerprints of failures: failures with the same cause get the same fingerprint, whatever their numbers, ids and paths.
//
// A fingerprint is `f2:` and 16 hex digits of a hash over the endpoint's shape and the error text's shape, or `sig:` and the
// operation's own `sig_hash`. The shape of a text is made in three steps:
//   1. lines: keep the line of a stack trace that names the error, and the lines of a longer output that mention an error
//   2. quotes: replace quoted strings, except the message itself (JSON's "message", "code", …)
//   3. tokens: replace numbers, ids, hashes, paths, hosts, times; keep a number that is the cause (HTTP 429, exit code 137)
//
// A version is frozen once it is released: clusters are stored by fingerprint, and any change of a shape would split them. Clusters of
// f1 (0.1.0) stay until they are dropped; new failures get f2, which recognises more dates, hosts and ids. Every pattern is bounded or
// starts at the start of a word, so time grows linearly with the text; and the text is capped first.

/** The fields of an operation that the fingerprint is made of. */
interface Failure {
  endpoint: string;
  error?: string | null | undefined;
  output_summary?: string | null | undefined;
  sig_hash?: string | null | undefined;
}

export interface Fingerprint {
  /** `f2:` and 16 hex digits, or `sig:<sig_hash>`. */
  fingerprint: string;
  /** What it was made from, to explain it. `by` says which field decided. */
  parts: { by: "sig_hash" | "error"; endpoint: string; shape: string };
}

const VERSION = "f2";
/** Only the beginning and the end of a longer text are read, in UTF-16 units: a Python trace ends with its error. */
const MAX_HEAD = 12 << 10;
const MAX_TAIL = 4 << 10;
const MAX_LINES = 3;
const MAX_SHAPE = 512;
const MAX_ENDPOINT = 256;
const NO_TEXT = "(no error text)";

/**
 * The fingerprint of a failure, and its parts. `sig_hash` wins; otherwise the text is `error`, or `output_summary` when
 * `error` is blank. Never throws.
 */
export function fingerprintOf(failure: Failure): Fingerprint {
  const endpoint = endpointShape(failure.endpoint);
  const shape = shapeOf(present(failure.error) ?? present(failure.output_summary) ?? "");
  const signature = present(failure.sig_hash);
  if (signature !== undefined) {
    return { fingerprint: `sig:${signature}`, parts: { by: "sig_hash", endpoint, shape } };
  }
  const digest = Bun.CryptoHasher.hash("sha256", JSON.stringify([VERSION, endpoint, shape]), "hex");
  return { fingerprint: `${VERSION}:${digest.slice(0, 16)}`, parts: { by: "error", endpoint, shape } };
}

function present(text: string | null | undefined): string | undefined {
  return text?.trim() || undefined;
}

/**
 * An endpoint without its ids: `/users/123?page=2` → `/users/<num>`, `workflow:deploy-42` → `workflow:deploy-<num>`.
 * Digits within a word stay: `/v1/`, `s3.get`, `oauth2`. Only the path of a URL counts, so that two instances agree.
 */
export function endpointShape(endpoint: string): string {
  return endpoint
    .trim()
    .slice(0, MAX_ENDPOINT)
    .replace(/^((?:[A-Z]{1,10} )?)[a-z]{1,10}:\/\/[^/?#]*/i, "$1")
    .replace(/[?#].*/s, "")
    .replace(/(?<![a-z0-9])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+)(?![a-z0-9])/gi, "<num>")
    .replace(/(?<![a-z0-9])(?=[a-f]{0,64}\d)[0-9a-f]{7,}(?![a-z0-9])/gi, "<num>")
    .replace(/(?<![a-z0-9])(?=[a-z]{0,64}\d)[a-z0-9]{16,}(?![a-z0-9])/gi, "<num>");
}

/**
 * The text with its changing parts replaced: `<num>` (numbers, ids, hashes: an id may happen to be all digits), `<str>`,
 * `<path>`, `<url>`, `<host>` (names and addresses, with their port), `<email>`, `<time>`, `<duration>`, `<size>`,
 * `<model>`, `<name>`. At most 512 characters; a blank text is `(no error text)`.
 */
export function shapeOf(text: string): string {
  const lines = causeLines(pageTitle(plain(text).replace(BROKEN_JSON, "<str> is not valid JSON")));
  const shape = lines
    .map((line) => withoutTokens(withoutQuotes(line)))
    .join(" | ")
    .replace(/\s*([{}])\s*|(?<=\[)\s+|\s+(?=\])/g, "$1")
    .replace(/[\s,]+/g, (gap) => (gap.includes(",") ? ", " : " "))
    .replace(/(<[a-z]{3,8}>)(?:[\s,;.:/_-]{1,4}\1)+/g, "$1")
    .trim();
  return shape.slice(0, MAX_SHAPE).trimEnd() || NO_TEXT;
}

/** Terminal sequences: colours and the like (CSI), titles and links (OSC). */
const ESCAPE = "\u001B";
const TERMINAL = new RegExp(
  String.raw`${ESCAPE}\[[0-9;:?]{0,32}[ -/]{0,4}[@-~]|${ESCAPE}\][^\u0007${ESCAPE}]{0,512}(?:\u0007|${ESCAPE}\\)`,
  "g",
);

/** The text capped, in NFC, with straight quotes, without terminal sequences and control characters. */
function plain(text: string): string {
  const capped =
    text.length <= MAX_HEAD + MAX_TAIL ? text : `${text.slice(0, MAX_HEAD)}\n${text.slice(text.length - MAX_TAIL)}`;
  return capped
    .toWellFormed()
    .normalize("NFC")
    .replace(TERMINAL, "")
    .replace(/\r\n?/g, "\n")
    .replace(/[\u2018\u2019]/g, "'")
    .replace(/[\u201C\u201D\u00AB\u00BB]/g, '"')
    .replace(/(?!\n)[\s\p{Cc}\u200B]/gu, " ");
}

/** Replaces an HTML page, such as a proxy's error page, with its title. */
function pageTitle(text: string): string {
  const start = text.search(/<!doctype html|<html\b/i);
  if (start < 0) return text;
  const page = text.slice(start);
  const title = /<title>([^<]{0,256})<\/title>/i.exec(page)?.[1];
  return `${text.slice(0, start)} ${title ?? page.replace(/<[^<>]{0,512}>/g, " ")}`;
}

// ---- lines

/** Lines with a location in a program, or an excerpt of its source: they differ between versions, not between causes. */
const NOISE: readonly RegExp[] = [
  /^ *$/,
  /^ +at (?:async |new )?\S/, // Node, Bun, Java
  /^ *\.\.\. \d+ (?:more|common frames)/, // Java
  /^ *File "[^"]*", line \d+/, // Python
  /^ *\d{1,6} \| /, // Bun's excerpt of the source
  /^(?:file:\/\/|\/|node:|[A-Za-z]:\\)\S*:\d+$/, // the location above Node's excerpt
  /^(?:Node\.js|Bun) v\d/,
  /^ *\[signal SIG/, // Go
  /^thread '[^']{0,100}'(?: \(\d+\))? panicked at [^']*:$/, // Rust: the next line has the message
  /^note: (?:run with|Some details)/, // Rust
  /^(?:LINE \d+|LOCATION|SCHEMA NAME|TABLE NAME|COLUMN NAME|CONSTRAINT NAME|HINT): /, // Postgres
  /^(?:hint|usage): /i,
  /^(?:To|From) \S+$|^Cloning into /, // git
];
const CARET = /^[ |]*[\^~][\^~ ]*$/;
/** Only stack frames follow this line. */
const FRAMES_FOLLOW = /^(?:goroutine \d+ [^\n]*\[|stack backtrace:|Stack trace:)/;
const MENTIONS_ERROR =
  /error|exception|fatal|panic|fail|denied|refused|rejected|cannot|can't|unable|not found|no such|tim(?:ed|e) ?out|caused by|\[cause\]/i;

/** The lines that name the cause, at most three. */
function causeLines(text: string): string[] {
  const trimmed = text.trim();
  if (/^[{[][^]*[}\]]$/.test(trimmed)) return [trimmed.replaceAll("\n", " ")];
  const lines = trimmed.split("\n");
  const raised = pythonError(lines);
  if (raised !== undefined) return [raised];
  const cut = lines.findIndex((line) => FRAMES_FOLLOW.test(line));
  const head = cut > 0 ? lines.slice(0, cut) : lines;
  const left = head.filter((line, index) => !isNoise(line) && !CARET.test(head[index + 1] ?? ""));
  if (left.length === 0) return [lines[0] ?? ""];
  if (left.length <= MAX_LINES) return left;
  const errors = left.filter((line) => MENTIONS_ERROR.test(line));
  return (errors.length > 0 ? errors : left).slice(0, MAX_LINES);
}

function isNoise(line: string): boolean {
  return CARET.test(line) || NOISE.some((pattern) => pattern.test(line));
}

/** The error of a Python traceback: the first unindented line after the last one. Earlier tracebacks are its causes. */
function pythonError(lines: string[]): string | undefined {
  const start = lines.findLastIndex((line) => line.includes("Traceback (most recent call last)"));
  return start < 0 ? undefined : lines.slice(start + 1).find((line) => /^[A-Za-z_]/.test(line));
}

// ---- quotes

const QUOTES = new Set(["'", '"', "`"]);
const MAX_DEPTH = 3;
/** A key before a quoted value that is the message itself; `error` only as a key of JSON or logfmt. */
const MESSAGE_KEY =
  /(?:(?:^|[{,(\s])(?:message|msg|type|code|kind|reason|status|detail|details|title|errno|error_description)\s{0,3}[:=]|[{,]\s{0,8}error\s{0,3}:|\berr(?:or)?=)\s{0,3}$/;
/** Python writes a nested error as `NameOfError("its message")`; a single word there is a key or a name. */
const INNER_ERROR = /(?:Error|Exception|Timeout)\($/;
/** Quoted words that name a cause: they stay. */
const CAUSE_WORD = /^(?:E[A-Z][A-Z0-9]{2,14}|ERR_[A-Z0-9_]{2,40}|SIG[A-Z0-9]{2,7})$/;
/** V8 quotes the broken JSON without escaping it. */
const BROKEN_JSON = /"[^]{0,200}"(?:\.\.\.)? is not valid JSON/;

/** Replaces quoted strings; JSON keys and messages lose only their quotes. One pass, without backtracking. */
function withoutQuotes(line: string, depth = 0): string {
  const unclosed = new Set<string>();
  const out: string[] = [];
  let tail = ""; // the end of `out`
  let from = 0;
  const put = (piece: string): void => {
    out.push(piece);
    tail = (tail + piece.slice(-64)).slice(-64);
  };
  for (let at = 0; at < line.length; at++) {
    const quote = line.charAt(at);
    if (!QUOTES.has(quote) || unclosed.has(quote) || /[\w\\]/.test(line.charAt(at - 1))) continue;
    const end = closing(line, at, quote);
    if (end < 0) {
      unclosed.add(quote); // no later quote of this kind is closed either
      continue;
    }
    put(line.slice(from, at));
    const content = line.slice(at + 1, end);
    const colon = /^\s{0,3}:\s{0,8}/.exec(line.slice(end + 1, end + 13));
    const isKey = colon !== null && /[{,]\s{0,32}$/.test(tail) && /^[\w.-]{1,40}$/.test(content);
    put(isKey ? `${content}: ` : unquoted(tail, content, depth));
    from = end + 1 + (isKey ? colon[0].length : 0);
    at = from - 1;
  }
  return out.join("") + line.slice(from);
}

/** Where a quote is closed: not before a letter, so that the apostrophe in "can't" doesn't count. -1 when it isn't. */
function closing(line: string, start: number, quote: string): number {
  for (let end = line.indexOf(quote, start + 1); end >= 0; end = line.indexOf(quote, end + 1)) {
    if (line[end - 1] !== "\\" && !/\w/.test(line.charAt(end + 1))) return end;
  }
  return -1;
}

/** The replacement of a quoted string, by the text before it. */
function unquoted(before: string, content: string, depth: number): string {
  if (CAUSE_WORD.test(content)) return content;
  const isMessage = MESSAGE_KEY.test(before) || (INNER_ERROR.test(before) && content.includes(" "));
  if (depth >= MAX_DEPTH || !isMessage) return "<str>";
  return withoutQuotes(content.replace(/\\[nrt]/g, " ").replace(/\\(["'`\\/])/g, "$1"), depth + 1);
}

// ---- tokens

const REASONS =
  "Bad Request|Unauthorized|Payment Required|Forbidden|Not Found|Method Not Allowed|Not Acceptable|Request Time-?out|Conflict|Gone|Length Required|Precondition Failed|Payload Too Large|Content Too Large|Request Entity Too Large|URI Too Long|Unsupported Media Type|Unprocessable|Locked|Too Early|Too Many Requests|Internal Server Error|Not Implemented|Bad Gateway|Service (?:Temporarily )?Unavailable|Gateway Time-?out|Insufficient Storage|Overloaded|Client Error|Server Error";
const UNIT =
  "(?:ns|us|µs|μs|ms|msecs?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|(?:nano|micro|milli)seconds?)";
const DAY = "(?:(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?)";
const MONTH =
  "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)";
const CLOCK = String.raw`\d{1,2}:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?: ?[ap]m\b)?`;
const ZONE = String.raw`(?: ?(?:Z|(?:UTC|GMT)?[+-]\d\d:?\d\d|UTC|GMT|[CEW]ES?T|[ECMP][SD]T|BST|IST|JST))?(?: \([a-z .+0-9:-]{2,48}\))?(?![a-z])`;
const FILE =
  "(?:[cm]?[jt]sx?|py|go|rs|java|kt|c|cc|cpp|h|hpp|rb|php|sh|sql|json|jsonl|ya?ml|toml|xml|html?|css|csv|tsv|txt|log|md|lock|conf|ini|env|db|sqlite|parquet|gguf|bin|pdf|png|jpe?g|zip|gz|zst|tar)";
/** Public suffixes and private ones, without those that are also the ending of a file or the name of a method (sh, py, rs, is, to, …). */
const DOMAIN =
  "com|org|net|edu|gov|info|biz|io|dev|app|cloud|xyz|tech|site|online|store|ai|eu|de|at|ch|fr|nl|be|lu|uk|ie|es|pt|it|dk|se|fi|no|pl|cz|sk|hu|ro|bg|gr|tr|ru|ua|by|il|ae|sa|ir|pk|in|cn|hk|tw|jp|kr|sg|my|th|vn|id|ph|au|nz|ca|us|mx|br|ar|cl|co|pe|za|ng|ke|eg|internal|invalid|lan|local|localdomain|home|corp|intranet|svc|arpa|example|test|onion";
const BEGIN = "(?<![a-z0-9])";
const END = "(?![a-z0-9])";

/** Patterns in the order in which they are tried, and their placeholders; null keeps the text. Case is ignored. */
const TOKENS: readonly (readonly [placeholder: string | null, pattern: string])[] = [
  // numbers that are the cause
  [
    null,
    String.raw`\b(?:HTTP(?:/\d(?:\.\d)?)?(?: error| status| code)?|status(?:[ _-]?code)?|http code|responded with)[:=]? ?\(?[1-5]\d\d(?!\d)`,
  ],
  [
    null,
    String.raw`(?:\b(?:error|exit|status|return|close|response|with)(?:ed)?[ _-]code|\b(?:exit|return)(?:ed)?(?: with)? (?:status|value)|\bexit(?:ed)?(?: with)?|\berrno|\bos error|\bsignal|\bcurl:|\bcode(?=[:=]))[:=]? {0,2}\(?(?:0x[0-9a-f]{1,8}|-?\d{1,5})${END}`,
  ],
  [
    null,
    String.raw`(?:\bSQLSTATE[ :=[(]{0,3}|\bcode[:=] ?|\b(?:ERROR|FATAL|PANIC):  ?(?=\w{5}:))(?=[a-z]{0,4}\d)[0-9a-z]{5}${END}`,
  ],
  [null, String.raw`\bstatus=\d{1,3}(?=/)`], // systemd
  [null, String.raw`(?<![\w.])[1-5]\d\d(?= (?-i:${REASONS})\b)`], // but not in "user 429 not found"
  [null, String.raw`\b(?:returned|response:|failed with|failed:) [45]\d\d(?=$|[.,;:)\]])`],
  [null, String.raw`(?<=\berror )\d{4}(?= \()`], // MySQL
  [null, String.raw`(?:^|\berror:? |\berror\()[45]\d\d(?![\w.])`],
  [null, String.raw`(?<=\()\d{1,3}(?=: [A-Z])`],
  // names without quotes
  [
    "<name>",
    String.raw`(?<=\b(?:No such (?:container|image|volume|network|object):|pull access denied for|manifest for|src refspec|no such table:) )[^\s,]{1,255}`,
  ],
  ["<name>", String.raw`(?<!\S)\S{1,128} {1,4}-> {1,4}\S{1,128}`],
  ["<name>", String.raw`(?<![\w.@-])[\w@:.\\-]{1,128}\.(?:service|socket|timer|mount|target|slice|scope)${END}`],
  // addresses
  ["<url>", String.raw`${BEGIN}[a-z][a-z0-9+.-]{1,15}://[^\s"'<>)\]},;]{1,2048}(?<![.:!?])`],
  ["<email>", String.raw`(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}`],
  // times
  ["<time>", String.raw`${BEGIN}\d{4}[-/.]\d\d[-/.]\d\d(?:[T ]${CLOCK}${ZONE})?(?!\d)`],
  ["<time>", String.raw`${BEGIN}\d{8}T\d{6}Z?${END}`],
  ["<time>", String.raw`${BEGIN}(?:\d{1,2}\.\d{1,2}\.|\d{1,2}/\d{1,2}/)\d{4}(?:,? ${CLOCK}${ZONE})?(?!\d)`],
  [
    "<time>",
    String.raw`${BEGIN}(?:${DAY},? )?(?:\d{1,2}[ /-]${MONTH}[ /-]\d{2,4}|${MONTH} {1,2}\d{1,2}(?:,? \d{4})?)(?:[ :,T]|, | at )${CLOCK}${ZONE}(?: (?:[A-Z]{3,4} )?\d{4})?(?!\d)`,
  ],
  ["<time>", String.raw`${BEGIN}(?:${DAY},? )?(?:\d{1,2}[ /-]${MONTH}[ /-]|${MONTH} {1,2}\d{1,2},? )\d{4}(?!\d)`],
  ["<time>", String.raw`${BEGIN}\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?![\d:])`],
  ["<time>", String.raw`${BEGIN}\d{1,2}:\d\d ?[ap]m\b`],
  ["<num>", `${BEGIN}[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}${END}`],
  // hosts
  ["<host>", String.raw`(?<![\w.:])\[(?=[0-9a-f.%]{0,8}:)[0-9a-f:.%]{2,64}\](?::\d{1,5})?`],
  ["<host>", String.raw`(?<![\w.])(?:::ffff:)?\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5}|/\d{1,2})?(?![\w.]\d)`],
  ["<host>", String.raw`(?<![\w:.])(?=[0-9a-f:]{0,6}:[0-9a-f]{0,4}:)(?:[0-9a-f]{0,4}:){2,8}[0-9a-f]{1,5}(?![\w:])`],
  ["<host>", String.raw`(?<![\w.-])localhost(?::\d{1,5})?${END}`],
  [
    "<host>",
    String.raw`(?<=\b(?:ENOTFOUND|EAI_AGAIN|resolve host:|resolve hostname|lookup|connect to host) )[a-z0-9][\w.-]{0,252}\w(?::\d{1,5})?`,
  ],
  ["<host>", String.raw`(?<=\bconnect to )[a-z0-9][\w.-]{0,252}(?= port )`],
  ["<host>", String.raw`(?<![\w.-])(?:[a-z0-9-]{1,63}\.){1,8}(?:${DOMAIN})\.?(?::\d{1,5})?(?![\w-]|\.\w|\()`],
  ["<host>", String.raw`(?<![\w.-])(?:[a-z0-9-]{1,63}\.){1,8}(?:[a-z]{2,24}):\d{2,5}(?![\w:.-]|\.\w)`],
  // paths, with line and column
  ["<path>", String.raw`(?<![a-z0-9])[a-z]:[\\/][^\s"'<>|:*?,;()]{0,1024}(?::\d{1,7}){0,2}`],
  ["<path>", String.raw`(?<![\w/.~<>)])(?:~|\.\.?)?(?:/[^\s/"'<>:,;()[\]{}|]{1,255}(?<!\.))+/?(?::\d{1,7}){0,2}`],
  ["<path>", String.raw`(?<![\w.@/-])[\w@.-]{1,255}(?:/[\w@.+-]{1,255}){1,32}\.[a-z]\w{0,7}(?::\d{1,7}){0,2}${END}`],
  ["<path>", String.raw`(?<![\w.@/-])[\w@-]{1,128}(?:\.[\w-]{1,64}){0,4}\.${FILE}(?::\d{1,7}){1,2}${END}`],
  ["<path>", String.raw`(?<![\w.@/-])[\w@-]{1,128}(?:\.[\w-]{1,64}){0,4}\.${FILE}(?![\w(.])`],
  [
    "<model>",
    String.raw`(?<![\w-])(?:gpt|chatgpt|claude|gemini|gemma|llama|codellama|qwen|mistral|mixtral|codestral|deepseek|phi|grok|kimi|glm|text-embedding)[a-z]{0,12}[-\d](?:[\w.:-]{0,64}\w)?`,
  ],
  ["=(<str>)", String.raw`=\([^()\n]{1,256}\)`], // Postgres: Key (mail)=(…)
  ["contains (<str>)", String.raw`\bcontains \([^\n]{1,2048}\)`], // Postgres: Failing row contains (…)
  // measures
  [
    "<duration>",
    String.raw`(?<![\w.])\d{1,20}(?:\.\d{1,20})?(?:${UNIT}(?:\d{1,9}(?:\.\d{1,20})?${UNIT}){0,4}| ${UNIT})${END}`,
  ],
  ["<size>", String.raw`(?<![\w.])\d{1,20}(?:\.\d{1,20})? ?(?:[kmgtp]i?b|[kmgt]i|bytes?|b)${END}`],
  // ids and numbers
  ["<num>", String.raw`\b0x[0-9a-f]{1,}`],
  ["<num>", String.raw`${BEGIN}[0-9a-f]{4}(?::[0-9a-f]{4,10}){3,5}${END}`], // GitHub's request ids
  ["<num>", String.raw`${BEGIN}[0-9a-f]{2}(?:-[0-9a-f]{2}){5}${END}`], // addresses of network cards
  ["<num>", String.raw`${BEGIN}eyJ[\w-]{8,4096}(?:\.[\w-]{2,4096}){1,2}`], // JSON Web Tokens
  ["<num>", String.raw`${BEGIN}(?=[a-z/+]{0,64}[\d/+])[a-z0-9/+]{16,1024}={1,2}`], // base64
  ["<num>", String.raw`(?<=[a-z]_)-?\d{1,20}${END}`], // blk_-1608999687919862906
  [
    "<num>",
    `(?<=${BEGIN}(?:org|req|msg|call|run|proj|asst|file|batch|resp|sess|user|chatcmpl|cmpl|thread|toolu|sk|key)[_-])[a-z0-9]{16,}${END}`,
  ],
  ["<num>", String.raw`${BEGIN}(?=[a-f]{0,64}\d)[0-9a-f]{7,}${END}`],
  ["<num>", String.raw`${BEGIN}(?=[a-z]{0,64}\d)[a-z0-9]{16,}${END}`],
  ["<num>", String.raw`${BEGIN}(?=[a-z]{0,14}\d{1,14}[a-z])[a-z0-9]{5,15}${END}`],
  ["<num>", String.raw`(?:(?<!\w)[-+])?\d{1,}(?:[.,_]\d{1,}){0,64}(?:e[-+]?\d{1,3})?`],
];
const ANY_TOKEN = new RegExp(TOKENS.map(([, pattern]) => `(${pattern})`).join("|"), "gi");

function withoutTokens(line: string): string {
  return line.replace(ANY_TOKEN, (match: string, ...groups: unknown[]) => {
    const rule = TOKENS[groups.findIndex((group) => group !== undefined)];
    return rule?.[0] ?? match;
  });
}
