// A test's time limit is there for what hangs, and is far from what a busy machine needs. `bun test` has no setting for it.

import { setDefaultTimeout } from "bun:test";

setDefaultTimeout(300_000);
