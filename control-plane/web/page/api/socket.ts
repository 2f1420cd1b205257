// A WebSocket that stays: it reconnects with full-jitter backoff, at once when
// the network returns, and notices a silent peer.

import { Backoff } from "../lib/backoff";
import { SIGNED_OUT, whyClosed, type Closed, type Of } from "../lib/terminal-protocol";
import { socketUrl } from "./client";
import { signedIn, signedOut } from "./presence";

/** A ping goes out this often, in milliseconds. */
const PING_MS = 15_000;
/** A peer silent for this long after a ping is taken for dead, in milliseconds. */
const SILENCE_MS = 10_000;

export type Link =
  | { state: "connecting" }
  | { state: "open"; rttMs?: number }
  /** `at` is when the next attempt starts (milliseconds since the epoch); infinite while nobody looks, or is signed in. */
  | { state: "waiting"; at: number; why: Closed }
  | { state: "ended"; why: Closed };

export interface Handlers {
  /** The socket is open; what is sent now comes first. */
  opened(): void;
  message(frame: string | ArrayBuffer): void;
  changed(link: Link): void;
  /** Whether a cut socket may stay cut until `retryNow`: nobody looks, and nothing waits to be sent. */
  rests?(): boolean;
}

export class LastingSocket {
  #socket: WebSocket | undefined;
  #backoff = new Backoff();
  #retry: ReturnType<typeof setTimeout> | undefined;
  #pinger: ReturnType<typeof setInterval> | undefined;
  #silence: ReturnType<typeof setTimeout> | undefined;
  #pingedAt = 0;
  #stopped = true;
  #unlisten: (() => void) | undefined;

  constructor(
    private readonly path: string,
    private readonly handlers: Handlers,
    private readonly of: Of,
  ) {}

  start(): void {
    if (!this.#stopped) return;
    this.#stopped = false;
    addEventListener("online", this.retryNow);
    this.#unlisten = signedIn.on(this.retryNow);
    this.#connect();
  }

  /** A goodbye: closes properly and does not come back. */
  stop(): void {
    this.#stopped = true;
    removeEventListener("online", this.retryNow);
    this.#unlisten?.();
    clearTimeout(this.#retry);
    this.#drop(1000);
  }

  retryNow = (): void => {
    if (this.#stopped || this.#socket) return;
    clearTimeout(this.#retry);
    this.#connect();
  };

  /** The peer has said something only a healthy one says: the next cut is a new one. */
  proved(): void {
    this.#backoff.reset();
  }

  /** The peer contradicts what this page knows: start afresh. */
  reconnect(): void {
    if (this.#stopped) return;
    this.#drop(1000);
    this.#connect();
  }

  /** False if there is no open socket; nothing is kept. */
  send(frame: string | ArrayBuffer): boolean {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(frame);
    return true;
  }

  #connect(): void {
    this.handlers.changed({ state: "connecting" });
    const socket = new WebSocket(socketUrl(this.path));
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#expectWord();
    socket.onopen = () => {
      if (this.#socket !== socket) return;
      this.#heard();
      this.handlers.changed({ state: "open" });
      this.#pinger = setInterval(() => this.#ping(), PING_MS);
      this.handlers.opened();
      this.#ping();
    };
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (this.#socket !== socket) return;
      this.#heard();
      // Inside a JSON string every quote is escaped, so output cannot look like this.
      const beat = typeof data === "string" ? /^\{"type":\s*"(ping|pong)"/.exec(data)?.[1] : undefined;
      if (beat === "ping") return void this.send('{"type":"pong"}');
      if (beat === "pong") {
        return this.handlers.changed({ state: "open", rttMs: performance.now() - this.#pingedAt });
      }
      this.handlers.message(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (this.#socket === socket) this.#closed(code, reason);
    };
  }

  #ping(): void {
    this.#pingedAt = performance.now();
    if (this.send('{"type":"ping"}')) this.#expectWord();
  }

  #expectWord(): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#drop(4408);
      this.#closed(4408, "");
    }, SILENCE_MS);
  }

  #heard(): void {
    clearTimeout(this.#silence);
  }

  #drop(code: number): void {
    const socket = this.#socket;
    this.#socket = undefined;
    clearInterval(this.#pinger);
    clearTimeout(this.#silence);
    socket?.close(code);
  }

  #closed(code: number, reason: string): void {
    this.#socket = undefined;
    clearInterval(this.#pinger);
    clearTimeout(this.#silence);
    if (this.#stopped) return;
    const why = whyClosed(code, reason, this.of);
    if (code === SIGNED_OUT) {
      // Trying again helps once somebody signs in, and what waits to be sent waits until then.
      this.handlers.changed({ state: "waiting", at: Number.POSITIVE_INFINITY, why });
      return signedOut.tell();
    }
    if (!why.retry) {
      this.#stopped = true;
      this.handlers.changed({ state: "ended", why });
      return;
    }
    if (this.handlers.rests?.()) {
      this.handlers.changed({ state: "waiting", at: Number.POSITIVE_INFINITY, why });
      return;
    }
    const wait = this.#backoff.next();
    this.handlers.changed({ state: "waiting", at: Date.now() + wait, why });
    this.#retry = setTimeout(() => this.#connect(), wait);
  }
}
