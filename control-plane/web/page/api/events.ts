// What the server tells about a workspace while it is open.

import type { SessionState } from "./sessions";

export type SyncState = "live" | "catching-up" | "full" | "offline";

export type WorkspaceEvent =
  | { type: "hello"; rev: number }
  | { type: "files"; rev: number; origin: string; paths: string[]; truncated?: boolean }
  | { type: "session"; state: SessionState; reason?: string | null }
  | { type: "conflict"; path: string; rev?: number; message?: string }
  | { type: "problem"; path?: string; code?: string; message?: string; detail?: string }
  | { type: "sync"; rev_in_pod: number; state: SyncState }
  | { type: "terminals" };

export function readEvent(frame: string | ArrayBuffer): WorkspaceEvent | undefined {
  if (typeof frame !== "string") return undefined;
  try {
    return JSON.parse(frame) as WorkspaceEvent;
  } catch {
    return undefined;
  }
}
