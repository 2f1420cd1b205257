// Between a file's bytes and the editor's text, without changing a byte that
// the user did not change: line ends, byte order mark, last newline.

/** Files above this size are not opened as text unless asked for. */
export const LARGE_BYTES = 4 * 1024 * 1024;

export type LineEnd = "LF" | "CRLF" | "mixed";

/** How a file's text is written down. */
export interface TextForm {
  lineEnd: LineEnd;
  bom: boolean;
}

export interface TextFile extends TextForm {
  /** With "\n" between lines; in a mixed file every "\r" is kept as a character. */
  text: string;
}

const BOM = "\ufeff";

/** The file as text, or undefined if it is not UTF-8 text. */
export function decode(bytes: Uint8Array): TextFile | undefined {
  if (bytes.includes(0)) return undefined;
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
  const bom = text.startsWith(BOM);
  if (bom) text = text.slice(1);
  const lineEnd = lineEndOf(text);
  return { text: lineEnd === "CRLF" ? text.replaceAll("\r\n", "\n") : text, lineEnd, bom };
}

export function encode(text: string, form: TextForm): Uint8Array<ArrayBuffer> {
  const lines = form.lineEnd === "CRLF" ? text.replaceAll("\n", "\r\n") : text;
  return new TextEncoder().encode((form.bom ? BOM : "") + lines);
}

function lineEndOf(text: string): LineEnd {
  const returns = count(text, "\r");
  if (returns === 0) return "LF";
  const pairs = count(text, "\r\n");
  return pairs === returns && pairs === count(text, "\n") ? "CRLF" : "mixed";
}

function count(text: string, part: string): number {
  let n = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) n += 1;
  return n;
}
