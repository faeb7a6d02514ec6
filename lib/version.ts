// Which build this is. `bun build --define PICKET_COMMIT='"abc1234"'` writes the commit in; from source there is none.

import { version as declared } from "../package.json";

declare const PICKET_VERSION: string;
declare const PICKET_COMMIT: string;

/** `MAJOR.MINOR.PATCH`: what the build defined as PICKET_VERSION, else what package.json says. */
export const version: string = typeof PICKET_VERSION === "string" ? PICKET_VERSION : declared;

/** The commit it was built from, or "source". */
export const commit: string = typeof PICKET_COMMIT === "string" ? PICKET_COMMIT : "source";

/** The version and, where it is known, the commit, as semver's build metadata: `0.2.0+abc1234`. */
export const build: string = ["source", "unknown"].includes(commit) ? version : `${version}+${commit}`;

/** What `--version` prints: `picket-collector 0.2.0 (commit abc1234, bun 1.4.4, linux-x64)`. */
export function versionLine(program: string): string {
  return `${program} ${version} (commit ${commit}, bun ${Bun.version}, ${process.platform}-${process.arch})`;
}
