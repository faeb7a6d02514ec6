// The stream that an open page follows, as a test reads it.

export interface Update {
  title: string;
  regions: Record<string, string>;
  lists: Record<string, string[]>;
}

/** Opens the stream of a page; gives its events. */
export async function* follow(url: string, page: string): AsyncGenerator<{ event: string; data: Update }, void> {
  const response = await fetch(`${url}/live?of=${encodeURIComponent(page)}`);
  const type = response.headers.get("content-type");
  if (type !== "text/event-stream") throw new Error(`${page}: ${response.status} ${type}`);
  let text = "";
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const [, event = "", data = "{}"] = /event: (.*)\ndata: (.*)/.exec(text.slice(0, end)) ?? [];
      text = text.slice(end + 2);
      yield { event, data: JSON.parse(data || "{}") as Update };
    }
  }
}
