import { describe, expect, it } from "vitest";
import { apply, edits } from "../page/lib/diff";
import { merge3 } from "../page/lib/merge";

/** Small deterministic numbers. */
function dice(seed: number) {
  let state = seed;
  return (n: number) => (state = (state * 48271) % 2147483647) % n;
}

function randomText(roll: (n: number) => number, lines: number): string {
  return Array.from({ length: lines }, () => "abcd"[roll(4)] + (roll(5) ? "\n" : "é😀\n")).join("").slice(0, roll(2) ? undefined : -1);
}

describe("the difference of two texts", () => {
  it("turns one into the other, always", () => {
    for (let seed = 1; seed <= 500; seed += 1) {
      const roll = dice(seed);
      const a = randomText(roll, roll(30));
      const b = randomText(roll, roll(30));
      expect(apply(a, edits(a, b)), `seed ${seed}`).toBe(b);
    }
  });

  it("is the characters that differ, not the line around them", () => {
    expect(edits("one\ntwo words\nthree\n", "one\ntwo birds\nthree\n")).toEqual([{ from: 8, to: 10, insert: "bi" }]);
  });

  it("never cuts an emoji in two", () => {
    const [edit] = edits("a😀b", "a😁b");
    expect(edit).toEqual({ from: 1, to: 3, insert: "😁" });
  });

  it("of two texts with nothing in common is still found quickly", () => {
    const a = Array.from({ length: 20_000 }, (_, i) => `a${i}\n`).join("");
    const b = Array.from({ length: 20_000 }, (_, i) => `b${i}\n`).join("");
    expect(apply(a, edits(a, b))).toBe(b);
  });
});

describe("a merge", () => {
  const base = "one\ntwo\nthree\nfour\nfive\n";

  it("takes both sides when they touched different lines", () => {
    const merge = merge3(base, base.replace("one", "ONE"), base.replace("five", "FIVE"));
    expect(merge).toMatchObject({ clean: true, text: "ONE\ntwo\nthree\nfour\nFIVE\n" });
  });

  it("leaves the same line changed two ways to a person", () => {
    expect(merge3(base, base.replace("two", "2"), base.replace("two", "II")).clean).toBe(false);
  });

  it("leaves lines that touch to a person", () => {
    expect(merge3(base, base.replace("two", "2"), base.replace("three", "3")).clean).toBe(false);
  });

  it("of the same change on both sides is that change", () => {
    const both = base.replace("two", "2");
    expect(merge3(base, both + "mine\n", both)).toMatchObject({ clean: true, text: both + "mine\n", edits: [] });
  });

  it("keeps a deletion here and an addition there", () => {
    const merge = merge3(base, "two\nthree\nfour\nfive\n", base + "six\n");
    expect(merge).toMatchObject({ clean: true, text: "two\nthree\nfour\nfive\nsix\n" });
  });

  it("loses no line of either side when it is clean", () => {
    let clean = 0;
    for (let seed = 1; seed <= 2000; seed += 1) {
      const roll = dice(seed);
      const lines = Array.from({ length: 12 }, (_, i) => `line ${i}\n`);
      const change = (who: string) =>
        lines.map((line, i) => (roll(10) === 0 ? `${who} ${i}\n` : roll(14) === 0 ? line + `${who} new ${i}\n` : line)).join("");
      const mine = change("mine");
      const theirs = change("theirs");
      const merge = merge3(lines.join(""), mine, theirs);
      if (!merge.clean) continue;
      clean += 1;
      expect(apply(mine, merge.edits)).toBe(merge.text);
      for (const side of [mine, theirs]) {
        for (const line of side.split("\n").filter((l) => /^(mine|theirs)/.test(l))) {
          expect(merge.text.split("\n"), `seed ${seed}`).toContain(line);
        }
      }
    }
    expect(clean).toBeGreaterThan(300);
  });
});
