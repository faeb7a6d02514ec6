// Around a whole run of `bun test`, which ends without telling the process: what tests share is taken away.

import { afterAll } from "bun:test";
import { removeBinaries } from "./kit.ts";

afterAll(removeBinaries);
