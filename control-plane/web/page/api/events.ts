// What the server tells about a workspace while it is open.

import type { Ending, SessionState } from "./sessions";

export type SyncState = "live" | "catching-up" | "full" | "held" | "offline";

/** A transfer that takes long: to the session's folder, or from it. */
export interface Transfer {
  to: "pod" | "database";
  /** Bytes. */
  done: number;
  total: number;
}

export type WorkspaceEvent =
  | { type: "hello"; rev: number }
  | { type: "files"; rev: number; origin: string; paths: string[]; truncated?: boolean }
  | { type: "session"; state: SessionState; reason?: string | null; ending?: Ending | null }
  | { type: "conflict"; path: string; rev: number; version: number }
  | { type: "problem"; path: string; code: string; message: string }
  | { type: "sync"; rev_in_pod: number; state: SyncState; problems?: number; transfer?: Transfer | null }
  | { type: "terminals" };

export function readEvent(frame: string | ArrayBuffer): WorkspaceEvent | undefined {
  if (typeof frame !== "string") return undefined;
  try {
    return JSON.parse(frame) as WorkspaceEvent;
  } catch {
    return undefined;
  }
}
