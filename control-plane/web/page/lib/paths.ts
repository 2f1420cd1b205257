// Workspace paths: relative, "/" between parts, never a leading or trailing one.

const encoder = new TextEncoder();

export function parentOf(path: string): string {
  const cut = path.lastIndexOf("/");
  return cut < 0 ? "" : path.slice(0, cut);
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

export function join(folder: string, name: string): string {
  return folder ? `${folder}/${name}` : name;
}

/** Whether `path` is `folder` or below it. */
export function isWithin(path: string, folder: string): boolean {
  return folder === "" || path === folder || path.startsWith(folder + "/");
}

/** `path` after `from` was moved to `to`. */
export function moved(path: string, from: string, to: string): string {
  return path === from ? to : to + path.slice(from.length);
}

export function extensionOf(path: string): string {
  const name = nameOf(path);
  const dot = name.lastIndexOf(".");
  return dot <= 0 ? "" : name.slice(dot + 1).toLowerCase();
}

/** Why a path typed by a person cannot be used, or undefined if it can. */
export function whyBadPath(path: string): string | undefined {
  if (!path) return "A name is needed.";
  if (path.startsWith("/")) return "A path in the workspace does not start with “/”.";
  if (path.includes("\0")) return "A name cannot contain a NUL character.";
  if (encoder.encode(path).length > 4096) return "A path has at most 4,096 bytes.";
  for (const part of path.split("/")) {
    if (!part) return "A part of the path is empty.";
    if (part === "." || part === "..") return `“${part}” is not a name.`;
    if (encoder.encode(part).length > 255) return "A name has at most 255 bytes.";
  }
  return undefined;
}

/** A path as a part of a URL: every part encoded, the slashes kept. */
export function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

/** `src/main.py:12:4` → path, line and column (both from 1). */
export function parsePlace(text: string): { path: string; line?: number; column?: number } {
  const match = /^(.+?)(?::(\d+)(?::(\d+))?)?$/.exec(text);
  if (!match?.[1]) return { path: text };
  return {
    path: match[1],
    ...(match[2] ? { line: Number(match[2]) } : {}),
    ...(match[3] ? { column: Number(match[3]) } : {}),
  };
}
