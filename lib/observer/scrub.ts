// Secrets in the texts of operations and reviews are replaced before anything is written, shown or sent to a model.

const REPLACED = "[redacted]";

/** Words that name a secret when they are a key, with a prefix too: `db_password`, `X-Api-Key`. */
const NAMES =
  "pass(?:word|wort|wd|phrase|code)|kennwort|wachtwoord|mot de passe|contrase[ñn]a|senha|пароль|pwd|secret(?:[_-]?(?:access[_-]?)?key)?|(?:api|access|private|auth|account|encryption|signing)[_-]?key|token|client[_-]?secret|credentials?|authorization|connection[_-]?string";
/** What follows such a word in a message about it. */
const NO_SECRET =
  "(?:yes|no|true|false|null|none|nil|undefined|empty|required|missing|invalid|expired|unknown|wrong|revoked|not|is|was|are|has|must|does|for|the|an?|of|in|to)\\b|(?:bearer|basic|token|apikey)\\s|\\[redacted\\]|\\*{3}";
/** Schemes of the header Authorization. */
const SCHEMES = "Bearer|Basic|Token|ApiKey";
const VALUE = String.raw`\\"[^"\\\n]{1,4096}\\"|"(?:[^"\\\n]|\\.){1,4096}"|'(?:[^'\\\n]|\\.){1,4096}'|[^\s"',;&(){}[\]<>\\]{1,4096}`;

/** What is replaced; of a pattern with a group `keep` that part stays. */
const PATTERNS: readonly RegExp[] = [
  /-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----)[^]){0,16384}(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?/g,
  // user:password@ in an address
  /(?<keep>\b[a-z][a-z0-9+.-]{1,30}:\/\/[^\s/:@"'<>]{0,256}:)[^\s/@"'<>]{1,1024}(?=@)/gi,
  // a token alone in its place, and addresses that are secrets themselves
  /(?<keep>\b[a-z][a-z0-9+.-]{1,30}:\/\/)(?=[\w-]{0,255}\d)[\w-]{16,255}(?=@)/gi,
  /(?<keep>hooks\.slack\.com\/(?:services|workflows|triggers)\/|discord(?:app)?\.com\/api\/webhooks\/\d{1,20}\/|(?<!\d)\d{6,12}:(?=AA))[\w/-]{8,255}/gi,
  // curl -u user:password, sshpass -p password, mysql -ppassword
  /(?<keep>\bcurl\s(?:[^\n]{0,256}\s)?(?:-u|--user)[\s=]{0,2}["']?[^\s:"']{1,128}:|\bsshpass\s-p\s?|\b(?:mysql|mariadb)\w{0,16}\s(?:[^\n]{0,256}\s)?-p)[^\s"']{1,256}/g,
  /(?<keep>\bcookie["']?:\s{0,4})[^\n"']{1,4096}/gi,
  // password=…, "api_key": "…", Authorization: Bearer …, --token …, ?sig=…
  new RegExp(
    String.raw`(?<keep>(?:${NAMES})\\?["'\]]?\s{0,4}(?:=>|:=|[:=]|%3[AD])\s{0,4}(?:(?:${SCHEMES})\s{1,4})?|(?<![a-z])pass=|[?&][\w-]{0,20}sig(?:nature)?=)(?!${NO_SECRET})(?:${VALUE})`,
    "gi",
  ),
  // <password>…</password>, password is "…", login bob password … of netrc
  new RegExp(String.raw`(?<keep><(?:[\w:.-]{0,40}[_.-])?(?:${NAMES})>)[^<\n]{1,4096}`, "gi"),
  new RegExp(String.raw`(?<keep>(?:${NAMES}) (?:is|was) )(?:"[^"\n]{1,256}"|'[^'\n]{1,256}')`, "gi"),
  /(?<keep>\blogin \S{1,128} password )(?!\[redacted\])\S{1,256}/g,
  new RegExp(String.raw`(?<keep>(?<!\S)--?(?:[\w-]{0,40}-)?(?:${NAMES})\s)(?!-|${NO_SECRET})(?:${VALUE})`, "gi"),
  new RegExp(String.raw`(?<keep>\b(?:${SCHEMES})\s{1,4})(?=\S{0,4096}[\d=._~+/-])[\w.~+/=-]{8,4096}`, "gi"),
  // tokens that show what they are
  /\b(?:gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}|gl(?:pat|dt|rt|ptt|agent|soat|cbt)-[\w-]{16,255}|xox[a-z]-[\w-]{10,255}|xapp-[\w-]{10,255}|(?:sk|rk|pk)[-_](?:live|test|ant|proj|or|lf)[-_][\w-]{8,255}|sk-[A-Za-z0-9]{20,255}|whsec_[A-Za-z0-9+/=_-]{8,255}|pk_[A-Za-z0-9]{40}|(?:AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{16}|AIza[\w-]{30,64}|ya29\.[\w-]{20,1024}|hf_[A-Za-z0-9]{20,64}|npm_[A-Za-z0-9]{30,64}|pypi-[\w-]{20,255}|dop_v1_[a-f0-9]{40,80}|dckr_pat_[\w-]{16,64}|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{24,64}|SG\.[\w-]{16,64}\.[\w-]{16,128}|glsa_\w{20,128}|tskey-[\w-]{10,255}|hvs\.[\w-]{20,255}|r8_\w{20,64}|age-secret-key-1[a-z0-9]{40,80})\b/gi,
  /\beyJ[\w-]{8,8192}\.[\w-]{8,8192}(?:\.[\w-]{0,8192})?/g,
];
/** Whether a text may hold a secret at all: most don't, and this is asked of every text. */
const SUSPICIOUS =
  /pass|pwd|kennwort|wachtwoord|contrase|senha|пароль|hooks\.|webhooks|:AA|curl|-p|secret|token|key|credential|authorization|cookie|sig=|signature=|connection|bearer|basic|BEGIN|:\/\/[^\s/]*@|gh[pousr]_|github_pat|gl[a-z]{2,5}-|xox|xapp|sk[-_]|rk_|pk_|whsec|A(?:KIA|SIA|GPA|IDA|ROA)|AIza|ya29|hf_|npm_|pypi|dop_v1|dckr|shp|SG\.|glsa|tskey|hvs\.|r8_|eyJ/i;
const SECRET_NAME = new RegExp(`(?:${NAMES}|cookie|^pass)$`, "i");
/** An argument that is followed by a secret. */
const SECRET_FLAG = new RegExp(`^--?(?:[\\w-]{0,40}-)?(?:${NAMES})$`, "i");
const LONGEST_NAME = 64;

/** The text with `[redacted]` in place of its secrets. */
export function scrubText(text: string): string {
  if (!SUSPICIOUS.test(text)) return text;
  return PATTERNS.reduce((left, pattern) => left.replace(pattern, replaced), text);
}

function replaced(match: string, ...more: unknown[]): string {
  const groups = more.at(-1);
  const keep = typeof groups === "object" ? ((groups as { keep?: string }).keep ?? "") : "";
  // A quoted value stays quoted.
  const quote = /^\\?["']/.exec(match.slice(keep.length))?.[0] ?? "";
  return `${keep}${quote}${REPLACED}${quote}`;
}

/**
 * The value with all its texts scrubbed, and texts under a key that names a secret replaced. Returns the value itself when nothing
 * changes. The values of the keys in `verbatim` stay.
 */
export function scrub<T>(value: T, verbatim?: ReadonlySet<string>): T {
  if (typeof value === "string") return scrubText(value) as T;
  if (typeof value !== "object" || value === null) return value;
  const given = value as Record<string, unknown>;
  let copy: Record<string, unknown> | undefined;
  for (const key of Object.keys(given)) {
    if (verbatim?.has(key)) continue;
    const inner = given[key];
    const isSecret = Array.isArray(value)
      ? SECRET_FLAG.test(String(value[Number(key) - 1]))
      : key.length <= LONGEST_NAME && SECRET_NAME.test(key);
    const clean = isSecret ? redacted(inner) : scrub(inner);
    if (clean === inner) continue;
    copy ??= (Array.isArray(value) ? [...(value as unknown[])] : { ...value }) as Record<string, unknown>;
    copy[key] = clean;
  }
  return (copy ?? value) as T;
}

/** The value with all its texts replaced. */
function redacted(value: unknown): unknown {
  if (typeof value === "string") return value === "" ? value : REPLACED;
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(redacted);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, redacted(inner)]));
}
