import { describe, expect, it } from "vitest";
import type { Version } from "../page/api/history";
import { changesOf, summaryOf, whatHappened } from "../page/lib/history";

let number = 0;
function version(rev: number, path: string, more: Partial<Version> = {}): Version {
  number += 1;
  return {
    version: 1000 - number, item: path, rev, path, op: "write", kind: "file", size: 1, hash: path, origin: "editor",
    actor: "ada", conflict_of: null, open_conflict: false, at: "2026-01-01T00:00:00Z", ...more,
  };
}

describe("the history", () => {
  it("shows versions of one revision as one change, in the order of paths", () => {
    const changes = changesOf([version(9, "b", { op: "delete" }), version(9, "a", { op: "create" }), version(8, "a")]);
    expect(changes.map((change) => [change.rev, change.versions.map((v) => v.path)])).toEqual([
      [9, ["a", "b"]],
      [8, ["a"]],
    ]);
  });

  it("says in words what a change did and where", () => {
    const [change] = changesOf([
      version(3, "a", { op: "delete", origin: "pod" }),
      version(3, "b", { op: "delete", origin: "pod" }),
      version(3, "c", { op: "create", origin: "pod" }),
    ]);
    expect(change && summaryOf(change)).toBe("2 deleted, 1 created in the terminal");
  });

  it("tells a version that lost a conflict from one that went into a merge", () => {
    const lost = { op: "loser", origin: "pod" } as const;
    expect(whatHappened(version(4, "a", { ...lost, conflict_of: 3 }))).toBe("Kept from a conflict, written in the terminal");
    expect(whatHappened(version(4, "a", lost))).toBe("Changed in the terminal, then merged");
    expect(whatHappened(version(4, "a", { origin: "restore" }))).toBe("Restored");
  });
});
