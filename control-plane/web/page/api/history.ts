// What files were: versions, their bytes, and how to get them back.

import { ask, askJson } from "./client";
import { BYTES_TIMEOUT_MS } from "./workspace";

export type VersionOp = "create" | "write" | "move" | "chmod" | "delete" | "loser";
export type Origin = "editor" | "pod" | "restore" | "merge" | "import";

export interface Version {
  /** Its number; rises with time. */
  version: number;
  /** The item's id, kept over renames. */
  item: string;
  rev: number;
  /** Where the item then was. */
  path: string;
  op: VersionOp;
  kind: "file" | "dir" | "symlink";
  size: number;
  hash: string;
  origin: Origin;
  actor: string | null;
  /** If it lost a conflict: the revision of what stood at the path instead. */
  conflict_of: number | null;
  open_conflict: boolean;
  at: string;
}

export interface Which {
  /** A file, or a folder with all below it; without, the whole workspace. */
  path?: string | undefined;
  before?: number | undefined;
  conflicts?: boolean;
  limit?: number;
}

/** What a change made: its revision, and what it changed (nothing if all was so already). */
export interface Done {
  rev: number;
  changed: { path: string }[];
}

export async function history(uuid: string, { path, before, conflicts, limit = 100 }: Which): Promise<Version[]> {
  const query = new URLSearchParams({ limit: String(limit) });
  if (path !== undefined) {
    query.set("path", path);
    query.set("below", "true");
  }
  if (before !== undefined) query.set("before", String(before));
  if (conflicts) query.set("conflicts", "true");
  return (await askJson<{ versions: Version[] }>(`/api/workspace/${uuid}/history?${query}`)).versions;
}

export const versionUrl = (uuid: string, version: number) => `/api/workspace/${uuid}/versions/${version}`;

export async function versionBytes(uuid: string, version: number): Promise<Uint8Array<ArrayBuffer>> {
  const response = await ask(versionUrl(uuid, version), { timeoutMs: BYTES_TIMEOUT_MS });
  return new Uint8Array(await response.arrayBuffer());
}

/** Brings a file, a folder or (no path) everything back to a revision, as a new one. */
export const restore = (uuid: string, path: string | undefined, rev: number) =>
  askJson<Done>(`/api/workspace/${uuid}/restore`, {
    method: "POST",
    json: { rev, ...(path === undefined ? {} : { path }) },
    timeoutMs: BYTES_TIMEOUT_MS,
  });

/** Undoes the last change of a path; undone twice, it stands again. */
export const undo = (uuid: string, path: string) =>
  askJson<Done>(`/api/workspace/${uuid}/undo`, { method: "POST", json: { path }, timeoutMs: BYTES_TIMEOUT_MS });

/** Notes that a person has chosen; the version stays in the history. */
export const settleConflict = (uuid: string, version: number) =>
  ask(`${versionUrl(uuid, version)}/settle`, { method: "POST" });
