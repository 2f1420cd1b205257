// The terminal WebSocket's frames, both ways: JSON text frames, and the binary
// ones for output and input that this page offers to speak.

import type { InputFrame } from "./input-queue";

export type FromServer =
  | {
      type: "hello";
      terminal: string;
      epoch: string | number;
      input_seq: number;
      /** Where the terminal's output ended when this viewer attached: the end of a replay. */
      offset?: number;
    }
  | { type: "snapshot"; offset: number; cols: number; rows: number; data?: string; base64?: string; more?: boolean }
  | { type: "output"; offset: number; data?: string; base64?: string }
  | { type: "input_ack"; seq: number }
  | { type: "resize" | "resized"; cols: number; rows: number }
  | { type: "exit"; code: number | null; signal: string | number | null }
  | { type: "error"; code: string; message: string }
  | { type: "notice"; code?: string; message: string }
  | { type: "ping" | "pong" };

export interface Attach {
  type: "attach";
  viewer: string;
  cols: number;
  rows: number;
  epoch?: string | number;
  from?: number;
  caps: string[];
}

const OUTPUT = 0x01;
const INPUT = 0x02;
const encoder = new TextEncoder();

/** A frame from the server with its bytes, or undefined if it is not one that this page knows. */
export function read(frame: string | ArrayBuffer): { message: FromServer; bytes?: Uint8Array<ArrayBuffer> } | undefined {
  if (typeof frame !== "string") {
    const view = new DataView(frame);
    if (view.byteLength < 9 || view.getUint8(0) !== OUTPUT) return undefined;
    const offset = Number(view.getBigUint64(1));
    return { message: { type: "output", offset }, bytes: new Uint8Array(frame, 9) };
  }
  let message: FromServer;
  try {
    message = JSON.parse(frame) as FromServer;
  } catch {
    return undefined;
  }
  if (typeof message !== "object" || message === null || typeof message.type !== "string") return undefined;
  if (message.type !== "output" && message.type !== "snapshot") return { message };
  if (message.base64 !== undefined) return { message, bytes: fromBase64(message.base64) };
  return { message, bytes: encoder.encode(message.data ?? "") };
}

/** Input as a binary frame: 0x02, sequence, revision (both 64 bits, big endian), bytes. */
export function inputFrame({ seq, afterRev, bytes }: InputFrame): ArrayBuffer {
  const frame = new ArrayBuffer(17 + bytes.length);
  const view = new DataView(frame);
  view.setUint8(0, INPUT);
  view.setBigUint64(1, BigInt(seq));
  view.setBigUint64(9, BigInt(afterRev));
  new Uint8Array(frame, 17).set(bytes);
  return frame;
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** What a closed socket means for the person, and whether trying again can help. */
export interface Closed {
  retry: boolean;
  message: string;
}

/** What a socket shows. */
export type Of = "terminal" | "session";

/** The close code of a socket whose viewer is not, or no longer, signed in. */
export const SIGNED_OUT = 4401;

/** The meaning of a WebSocket close code of Berth's. */
export function whyClosed(code: number, reason: string, of: Of = "terminal"): Closed {
  switch (code) {
    case SIGNED_OUT:
      return { retry: false, message: "You are signed out. Sign in again to go on; the program keeps running." };
    case 4403:
      return { retry: false, message: `You may no longer open this ${of}. Ask the session's owner for access.` };
    case 4404:
      return {
        retry: false,
        message: of === "session" ? "This session is gone: it was deleted." : "This terminal is gone: it was closed, or its session was stopped.",
      };
    case 4409:
      return { retry: false, message: "This terminal was opened in another tab of yours, which has it now." };
    case 4426:
      return { retry: false, message: "The server was updated. Reload the page to go on; the program keeps running." };
    case 4400:
      return { retry: false, message: `The server refused what this page sent${reason ? ` (${reason})` : ""}. Reload the page.` };
    case 4429:
      return { retry: true, message: "Too many connections at once. Trying again." };
    case 4503:
      return { retry: true, message: "The server is restarting. Trying again; the program keeps running." };
    default:
      return { retry: true, message: "The connection was cut. Trying again; the program keeps running." };
  }
}
