// What keeps a session's folder and its files out of step.

import { ask, askJson } from "./client";

export interface SyncProblem {
  /** As far as it can be told: what is no name in UTF-8 is escaped. */
  path: string;
  code: string;
  message: string;
}

/** So much was gone at a reconnect that nothing is deleted before a person says so. */
export interface HeldDelete {
  items: number;
  /** The topmost paths that are gone, at most 100. */
  paths: string[];
}

export interface SyncProblems {
  problems: SyncProblem[];
  /** How many more there are. */
  more: number;
  mass_delete: HeldDelete | null;
}

export const problems = (uuid: string) => askJson<SyncProblems>(`/api/workspace/${uuid}/problems`);

/** Delete what is gone in the workspace, too, or put it back into the session. */
export const decideMassDelete = (uuid: string, remove: boolean) =>
  ask(`/api/workspace/${uuid}/mass-delete`, { method: "POST", json: { delete: remove } });
