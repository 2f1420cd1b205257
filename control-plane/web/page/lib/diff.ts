// The difference between two texts as a list of edits, line by line and then
// trimmed to the characters that differ, so that a cursor beside an edit stays.

/** Replace `from..to` (offsets in the old text) by `insert`. */
export interface Edit {
  from: number;
  to: number;
  insert: string;
}

/** A run of lines that differ: `a0..a1` of the old became `b0..b1` of the new. */
export interface Hunk {
  a0: number;
  a1: number;
  b0: number;
  b1: number;
}

/** Past this many differing lines the middle is taken as one hunk. */
const EFFORT = 2_000;

/** Lines, each with its line end, so that joining them gives the text back. */
export function linesOf(text: string): string[] {
  if (text === "") return [];
  const lines = text.split("\n");
  const last = lines.pop();
  const ended = lines.map((line) => line + "\n");
  if (last) ended.push(last);
  return ended;
}

/** The lines that differ, in order (Myers' greedy algorithm). */
export function hunks(a: string[], b: string[]): Hunk[] {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let aEnd = a.length;
  let bEnd = b.length;
  while (aEnd > start && bEnd > start && a[aEnd - 1] === b[bEnd - 1]) {
    aEnd -= 1;
    bEnd -= 1;
  }
  if (start === aEnd && start === bEnd) return [];
  const whole = [{ a0: start, a1: aEnd, b0: start, b1: bEnd }];
  if (start === aEnd || start === bEnd) return whole;
  const path = shortestPath(a.slice(start, aEnd), b.slice(start, bEnd));
  if (!path) return whole;
  const found: Hunk[] = [];
  for (const [x, y, wide] of path) {
    const hunk = { a0: start + x, a1: start + x + (wide ? 1 : 0), b0: start + y, b1: start + y + (wide ? 0 : 1) };
    const last = found.at(-1);
    if (last && last.a1 === hunk.a0 && last.b1 === hunk.b0) {
      last.a1 = hunk.a1;
      last.b1 = hunk.b1;
    } else found.push(hunk);
  }
  return found;
}

/** The steps `[x, y, isDeletion]` from one list to the other, or undefined if too far apart. */
function shortestPath(a: string[], b: string[]): [number, number, boolean][] | undefined {
  const most = Math.min(a.length + b.length, EFFORT);
  const size = 2 * most + 3;
  const reach = new Int32Array(size);
  const history: Int32Array[] = [];
  const at = (k: number) => k + most + 1;
  for (let d = 0; d <= most; d += 1) {
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && (reach[at(k - 1)] ?? 0) < (reach[at(k + 1)] ?? 0));
      let x = down ? (reach[at(k + 1)] ?? 0) : (reach[at(k - 1)] ?? 0) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      reach[at(k)] = x;
      if (x >= a.length && x - k >= b.length) return walkBack(history, a.length, b.length, d);
    }
    // Only the diagonals reached so far are needed on the way back.
    history.push(reach.slice(at(-d - 1), at(d + 1) + 1));
  }
  return undefined;
}

function walkBack(history: Int32Array[], aLength: number, bLength: number, distance: number) {
  const steps: [number, number, boolean][] = [];
  let x = aLength;
  let y = bLength;
  for (let d = distance; d > 0; d -= 1) {
    const reach = history[d - 1] as Int32Array;
    const at = (k: number) => reach[k + d] ?? 0;
    const k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const before = down ? k + 1 : k - 1;
    x = at(before);
    y = x - before;
    steps.push([x, y, !down]);
  }
  return steps.reverse();
}

/** The edits that turn `old` into `now`, in order and apart. */
export function edits(old: string, now: string): Edit[] {
  const a = linesOf(old);
  const b = linesOf(now);
  const aStarts = starts(a);
  const bStarts = starts(b);
  return hunks(a, b).map((h) =>
    trimmed(old, aStarts[h.a0] ?? 0, aStarts[h.a1] ?? 0, now.slice(bStarts[h.b0], bStarts[h.b1])),
  );
}

/** The offset of every line's start, and of the end. */
export function starts(lines: string[]): number[] {
  const offsets = [0];
  for (const line of lines) offsets.push((offsets.at(-1) ?? 0) + line.length);
  return offsets;
}

/** One edit without the characters that both sides begin and end with. */
function trimmed(old: string, from: number, to: number, insert: string): Edit {
  let start = 0;
  const room = Math.min(to - from, insert.length);
  while (start < room && old[from + start] === insert[start]) start += 1;
  let end = 0;
  while (end < room - start && old[to - 1 - end] === insert[insert.length - 1 - end]) end += 1;
  // Never cut a character of two halves (an emoji) in the middle.
  if (start > 0 && isHigh(insert.charCodeAt(start - 1))) start -= 1;
  if (end > 0 && isLow(insert.charCodeAt(insert.length - end))) end -= 1;
  return { from: from + start, to: to - end, insert: insert.slice(start, insert.length - end) };
}

const isHigh = (unit: number) => unit >= 0xd800 && unit < 0xdc00;
const isLow = (unit: number) => unit >= 0xdc00 && unit < 0xe000;

export function apply(text: string, list: Edit[]): string {
  let out = "";
  let at = 0;
  for (const edit of list) {
    out += text.slice(at, edit.from) + edit.insert;
    at = edit.to;
  }
  return out + text.slice(at);
}
