// A workspace's files.

import { encodePath } from "../lib/paths";
import type { Item } from "../lib/tree";
import { ask, askJson } from "./client";

/** Uploads and saves may take this long, in milliseconds. */
export const BYTES_TIMEOUT_MS = 120_000;

export interface Saved {
  path: string;
  rev: number;
  hash: string;
  size: number;
}

export type Op =
  | { op: "write"; path: string; data?: string; base64?: string; if_rev?: number }
  | { op: "mkdir"; path: string }
  | { op: "move"; from: string; to: string }
  | { op: "delete"; path: string }
  | { op: "chmod"; path: string; mode: number };

/** What a save expects to find: a revision of the file, or no file at all. */
export type Expect = { rev: number } | "absent" | "anything";

const fileUrl = (uuid: string, path: string) => `/api/workspace/${uuid}/file/${encodePath(path)}`;

/** What changed after `since`, deletions included; or, `complete`, all there is: the server may not know what went since then. */
export interface TreeAnswer {
  rev: number;
  complete?: boolean;
  items: Item[];
}

export function tree(uuid: string, since?: number): Promise<TreeAnswer> {
  return askJson(`/api/workspace/${uuid}/tree${since === undefined ? "" : `?since=${since}`}`, { timeoutMs: BYTES_TIMEOUT_MS });
}

export async function read(uuid: string, path: string): Promise<{ rev: number; bytes: Uint8Array<ArrayBuffer> }> {
  const response = await ask(fileUrl(uuid, path), { timeoutMs: BYTES_TIMEOUT_MS });
  const rev = Number(/(\d+)/.exec(response.headers.get("etag") ?? "")?.[1] ?? 0);
  return { rev, bytes: new Uint8Array(await response.arrayBuffer()) };
}

export function save(uuid: string, path: string, body: Uint8Array<ArrayBuffer> | Blob, expect: Expect): Promise<Saved> {
  const headers: Record<string, string> = { "content-type": "application/octet-stream" };
  if (expect === "absent") headers["if-none-match"] = "*";
  else if (expect !== "anything") headers["if-match"] = `"${expect.rev}"`;
  return askJson(fileUrl(uuid, path), { method: "PUT", body, headers, timeoutMs: BYTES_TIMEOUT_MS });
}

export function batch(uuid: string, ops: Op[]): Promise<{ rev: number }> {
  return askJson(`/api/workspace/${uuid}/batch`, { method: "POST", json: { ops } });
}

export const downloadUrl = fileUrl;
export const archiveUrl = (uuid: string) => `/api/workspace/${uuid}/archive?format=zip`;
