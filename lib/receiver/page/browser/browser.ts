// The page's script: what the pages can do besides what their HTML does alone. Each part finds its elements by itself.

import { followPage } from "./follow.ts";
import { showPlots } from "./plots.ts";
import { showSpans, showTimes } from "./times.ts";

showTimes(document.body);
setInterval(() => showSpans(document.body), 1000);
// At midnight times of today get a date.
setInterval(() => showTimes(document.body), 60_000);
const goTo = followPage((changed) => {
  showTimes(changed);
  showPlots(changed, goTo);
});
showPlots(document.body, goTo);
