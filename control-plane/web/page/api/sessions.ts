// Sessions, their terminals, and who is signed in.

import { ask, askJson } from "./client";

export type SessionState = "stopped" | "starting" | "running" | "stopping" | "failed";

/** An end that comes soon unless the session is used, or extended. */
export interface Ending {
  at: string;
  cause: "idle" | "lifetime";
}

export interface Session {
  uuid: string;
  name: string;
  template: string;
  state: SessionState;
  reason?: string | null;
  created_at: string;
  last_activity_at?: string | null;
  ending?: Ending | null;
}

/** What sessions are made from, as far as the page shows it. */
export interface Template {
  name: string;
  size: string;
  idle_s: number;
  lifetime_s: number;
}

export interface Environment {
  variables: Record<string, string>;
  /** Names alone: nobody is told a secret's value. */
  secrets: string[];
  live?: boolean;
}

export interface EnvironmentChange {
  variables: Record<string, string>;
  /** Null removes one; those that are not named stay. */
  secrets: Record<string, string | null>;
}

export interface TimelineEvent {
  at: string;
  kind: string;
  message: string;
  step?: string | null;
  elapsed_ms?: number | null;
}

export interface TerminalInfo {
  id: string;
  title?: string | null;
  cols: number;
  rows: number;
  exited?: unknown;
}

export const me = () => askJson<{ name: string }>("/api/me");
export const signIn = (token: string) => ask("/api/sign-in", { method: "POST", json: { token } });
export const signOut = () => ask("/api/sign-out", { method: "POST" });

export const list = async () => (await askJson<{ sessions: Session[] }>("/api/sessions")).sessions;
export const get = (uuid: string) => askJson<Session>(`/api/sessions/${uuid}`);
export const create = (name: string, template?: string) =>
  askJson<Session>("/api/sessions", { method: "POST", json: { name, start: true, template } });
export const templates = async () => (await askJson<{ templates: Template[] }>("/api/templates")).templates;
export const start = (uuid: string) => ask(`/api/sessions/${uuid}/start`, { method: "POST" });
export const stop = (uuid: string) => ask(`/api/sessions/${uuid}/stop`, { method: "POST" });
export const extend = (uuid: string) => askJson<Session>(`/api/sessions/${uuid}/extend`, { method: "POST", json: {} });
export const environment = (uuid: string) => askJson<Environment>(`/api/sessions/${uuid}/environment`);
export const setEnvironment = (uuid: string, change: EnvironmentChange) =>
  askJson<Environment>(`/api/sessions/${uuid}/environment`, { method: "PUT", json: change });
export const remove = (uuid: string) => ask(`/api/sessions/${uuid}`, { method: "DELETE" });
export const timeline = async (uuid: string) =>
  (await askJson<{ events: TimelineEvent[] }>(`/api/sessions/${uuid}/timeline`)).events;

export const terminals = async (uuid: string, signal: AbortSignal) =>
  (await askJson<{ terminals: TerminalInfo[] }>(`/api/sessions/${uuid}/terminals`, { signal })).terminals;
export const openTerminal = (uuid: string, cols: number, rows: number, signal: AbortSignal) =>
  askJson<{ id: string }>(`/api/sessions/${uuid}/terminals`, { method: "POST", json: { cols, rows }, signal });
export const closeTerminal = (uuid: string, id: string) =>
  ask(`/api/sessions/${uuid}/terminals/${encodeURIComponent(id)}`, { method: "DELETE" });
