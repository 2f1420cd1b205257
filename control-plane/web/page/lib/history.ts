// The history as a person reads it: what a version was, and which versions one
// change made.

import type { Origin, Version } from "../api/history";

const BY: Record<Origin, string> = {
  editor: "in the editor",
  pod: "in the terminal",
  restore: "by a restore",
  merge: "by a merge",
  import: "by an import",
};

/** "Changed in the terminal", "Kept from a conflict". */
export function whatHappened(version: Version): string {
  const by = BY[version.origin];
  switch (version.op) {
    case "create":
      return version.origin === "restore" ? "Restored" : `Created ${by}`;
    case "write":
      return version.origin === "restore" ? "Restored" : version.origin === "merge" ? "Both sides' edits merged" : `Changed ${by}`;
    case "move":
      return `Moved here ${by}`;
    case "chmod":
      return `Permissions changed ${by}`;
    case "delete":
      return `Deleted ${by}`;
    case "loser":
      return version.conflict_of === null ? `Changed ${by}, then merged` : `Kept from a conflict, written ${by}`;
  }
}

/** Versions that one change made. */
export interface Change {
  rev: number;
  at: string;
  origin: Origin;
  actor: string | null;
  /** In the order of paths. */
  versions: Version[];
}

/** Versions, newest first, as the changes that made them. */
export function changesOf(versions: Version[]): Change[] {
  const changes: Change[] = [];
  for (const version of versions) {
    let change = changes.at(-1);
    if (change?.rev !== version.rev) {
      const { rev, at, origin, actor } = version;
      changes.push((change = { rev, at, origin, actor, versions: [] }));
    }
    change.versions.push(version);
  }
  for (const change of changes) change.versions.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : a.version - b.version));
  return changes;
}

/** "2 changed, 1 deleted in the terminal". */
export function summaryOf(change: Change): string {
  const counts = new Map<string, number>();
  const words = { create: "created", write: "changed", move: "moved", chmod: "made other permissions", delete: "deleted", loser: "kept aside" };
  for (const { op } of change.versions) counts.set(words[op], (counts.get(words[op]) ?? 0) + 1);
  const parts = [...counts].map(([word, n]) => `${n.toLocaleString()} ${word}`);
  return `${parts.join(", ")} ${BY[change.origin]}`;
}
