// Two sides edited one text: their merge if they touched different lines, else
// a conflict for a person to decide.

import { apply, edits, hunks, linesOf, starts, type Edit, type Hunk } from "./diff";

export type Merge =
  /** `edits` turn *mine* into `text`, which holds both sides' work. */
  { clean: true; text: string; edits: Edit[] } | { clean: false };

/** Merges `theirs` into `mine`, both made from `base`. */
export function merge3(base: string, mine: string, theirs: string): Merge {
  if (mine === theirs || theirs === base) return { clean: true, text: mine, edits: [] };
  if (mine === base) return { clean: true, text: theirs, edits: edits(mine, theirs) };
  const baseLines = linesOf(base);
  const mineLines = linesOf(mine);
  const theirLines = linesOf(theirs);
  const ours = hunks(baseLines, mineLines);
  const inMine = starts(mineLines);
  const result: Edit[] = [];
  let shift = 0;
  let at = 0;
  for (const their of hunks(baseLines, theirLines)) {
    while (at < ours.length && (ours[at] as Hunk).a1 < their.a0) {
      const our = ours[at] as Hunk;
      shift += our.b1 - our.b0 - (our.a1 - our.a0);
      at += 1;
    }
    const insert = theirLines.slice(their.b0, their.b1).join("");
    const our = ours[at];
    if (our && our.a0 <= their.a1) {
      const same =
        our.a0 === their.a0 && our.a1 === their.a1 && mineLines.slice(our.b0, our.b1).join("") === insert;
      if (!same) return { clean: false };
      continue;
    }
    result.push({ from: inMine[their.a0 + shift] ?? 0, to: inMine[their.a1 + shift] ?? 0, insert });
  }
  const text = apply(mine, result);
  // Trimmed to characters, so that the cursor in a merged line stays put.
  return { clean: true, text, edits: edits(mine, text) };
}
