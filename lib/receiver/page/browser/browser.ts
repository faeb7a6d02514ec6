// The page's script: what the pages can do besides what their HTML does alone. Each part finds its elements by itself.

import { followPage } from "./follow.ts";
import { showTimes } from "./times.ts";

showTimes(document.body);
setInterval(() => showTimes(document.body), 1000);
followPage((changed) => showTimes(changed));
