// The page's addresses: `/`, and `/s/{uuid}?file=src/main.py:12&terminal=…`.

export type Route =
  | { view: "dashboard" }
  | { view: "workspace"; uuid: string; file: string | undefined; terminal: string | undefined }
  | { view: "unknown" };

export function parseRoute(path: string, search: string): Route {
  if (path === "/") return { view: "dashboard" };
  const uuid = /^\/s\/([0-9a-f-]{36})\/?$/i.exec(path)?.[1];
  if (!uuid) return { view: "unknown" };
  const query = new URLSearchParams(search);
  return {
    view: "workspace",
    uuid: uuid.toLowerCase(),
    file: query.get("file") ?? undefined,
    terminal: query.get("terminal") ?? undefined,
  };
}

/** The address of a workspace, of a file in it and of a terminal beside it. */
export function workspaceUrl(uuid: string, file?: string, terminal?: string): string {
  // Readable slashes and colons: the address is for people to share.
  const readable = (text: string) => encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("%3A", ":");
  const query = [file && `file=${readable(file)}`, terminal && `terminal=${readable(terminal)}`].filter(Boolean);
  return `/s/${uuid}${query.length ? `?${query.join("&")}` : ""}`;
}
