// One way to ask the server: same origin, the cookie, the header that a foreign
// page cannot send, a time limit, and problems as `Problem`.

import { signedOut } from "./presence";
import { Problem } from "./problem";

/** A request without an answer is given up after this long, in milliseconds. */
const TIMEOUT_MS = 30_000;

export interface Ask {
  method?: string;
  json?: unknown;
  body?: Blob | Uint8Array<ArrayBuffer>;
  headers?: Record<string, string>;
  timeoutMs?: number;
  /** Gives the request up, as if the server could not be reached. */
  signal?: AbortSignal;
}

/** The answer, if it is a good one; else throws a `Problem`. */
export async function ask(path: string, { method = "GET", json, body, headers = {}, timeoutMs = TIMEOUT_MS, signal }: Ask = {}) {
  const late = AbortSignal.timeout(timeoutMs);
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      credentials: "same-origin",
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, late]) : late,
      headers: {
        accept: "application/json, application/problem+json, */*",
        ...(method === "GET" ? {} : { "x-berth": "1" }),
        ...(json === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(json === undefined ? (body === undefined ? {} : { body }) : { body: JSON.stringify(json) }),
    });
  } catch {
    throw Problem.offline();
  }
  if (response.ok) return response;
  if (response.status === 401) signedOut.tell();
  throw await Problem.of(response);
}

export async function askJson<T>(path: string, options?: Ask): Promise<T> {
  return (await (await ask(path, options)).json()) as T;
}

/** The address of a WebSocket on this page's server. */
export function socketUrl(path: string): string {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
}
