// A terminal's typed bytes on their way to the shell: numbered, kept until
// acknowledged, sent again after a reconnect, so that each arrives exactly once
// or is reported as not sent.

/** At most this many bytes are sent and not yet acknowledged. */
export const UNACKED_LIMIT = 64 * 1024;
/** At most this many bytes wait behind the window (a large paste), else `push` refuses. */
export const WAITING_LIMIT = 8 * 1024 * 1024;
/** One input frame carries at most this many bytes. */
export const FRAME_LIMIT = 16 * 1024;

/** Input ready for the wire. `seq` is the number of its first byte. */
export interface InputFrame {
  seq: number;
  afterRev: number;
  bytes: Uint8Array<ArrayBuffer>;
}

/** Bytes that a shell may not have been given, when the terminal they were typed for is gone. */
export interface NotSent {
  /** Never put on the wire. */
  waiting: Uint8Array<ArrayBuffer>;
  /** Sent, but nobody said whether they arrived. */
  unsure: Uint8Array<ArrayBuffer>;
}

interface Waiting {
  bytes: Uint8Array<ArrayBuffer>;
  /** The revision a command in these bytes must see; 0 for none. */
  afterRev: number;
}

export class InputQueue {
  #epoch: string | undefined;
  #acked = 0;
  #sent = 0;
  #flying: InputFrame[] = [];
  #waiting: Waiting[] = [];
  #waitingBytes = 0;

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  get unackedBytes(): number {
    return this.#sent - this.#acked;
  }

  get isEmpty(): boolean {
    return this.#waitingBytes === 0 && this.#sent === this.#acked;
  }

  /** Takes bytes to type; false if too many wait already and nothing was taken. */
  push(bytes: Uint8Array<ArrayBuffer>, afterRev = 0): boolean {
    if (bytes.length === 0) return true;
    if (this.#waitingBytes + bytes.length > WAITING_LIMIT) return false;
    this.#waiting.push({ bytes, afterRev });
    this.#waitingBytes += bytes.length;
    return true;
  }

  /**
   * The next frame that the window allows, or undefined. `holdFrom` may say at
   * which byte of a chunk the input must stop for now (a command waiting for a
   * save); `afterRev` is then read again when the rest is let go.
   */
  take(holdFrom?: (bytes: Uint8Array) => number, afterRev = 0): InputFrame | undefined {
    const head = this.#waiting[0];
    if (!head || this.#epoch === undefined) return undefined;
    let size = Math.min(head.bytes.length, FRAME_LIMIT, UNACKED_LIMIT - this.unackedBytes);
    if (holdFrom) {
      const hold = holdFrom(head.bytes);
      if (hold >= 0) size = Math.min(size, hold);
    }
    if (size <= 0) return undefined;
    const frame = { seq: this.#sent, afterRev: Math.max(head.afterRev, afterRev), bytes: head.bytes.slice(0, size) };
    if (size === head.bytes.length) this.#waiting.shift();
    else head.bytes = head.bytes.slice(size);
    this.#waitingBytes -= size;
    this.#sent += size;
    this.#flying.push(frame);
    return frame;
  }

  /** The shell has been given the first `seq` bytes. */
  ack(seq: number): void {
    if (seq <= this.#acked || seq > this.#sent) return;
    this.#acked = seq;
    while (this.#flying[0] && end(this.#flying[0]) <= seq) this.#flying.shift();
  }

  /**
   * A (re)connected terminal says which epoch it is in and how many of this
   * viewer's bytes it has. Answers the frames to send again, or, when they
   * belong to another shell than they were typed for, what was not sent.
   */
  resume(epoch: string, seq: number): { again: InputFrame[] } | { lost: NotSent } {
    const known = this.#epoch;
    this.#epoch = epoch;
    if (known === undefined) {
      // The first connection: another page of this viewer may have typed before.
      this.#acked = this.#sent = seq;
      this.#flying = [];
      return { again: [] };
    }
    if (known !== epoch || seq < this.#acked || seq > this.#sent) {
      const lost = this.#drain();
      this.#acked = this.#sent = seq;
      return { lost };
    }
    this.ack(seq);
    const first = this.#flying[0];
    if (first && first.seq < seq) {
      this.#flying[0] = { ...first, seq, bytes: first.bytes.slice(seq - first.seq) };
    }
    return { again: [...this.#flying] };
  }

  /** The terminal is gone for good: what its shell may not have been given. */
  abandon(): NotSent {
    this.#epoch = undefined;
    const lost = this.#drain();
    this.#acked = this.#sent = 0;
    return lost;
  }

  #drain(): NotSent {
    const lost = {
      unsure: concat(this.#flying.map((f) => f.bytes.slice(Math.max(0, this.#acked - f.seq)))),
      waiting: concat(this.#waiting.map((w) => w.bytes)),
    };
    this.#flying = [];
    this.#waiting = [];
    this.#waitingBytes = 0;
    return lost;
  }
}

function end(frame: InputFrame): number {
  return frame.seq + frame.bytes.length;
}

function concat(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Keys as a person reads them: `ls⏎`, `⌃C`. At most `limit` characters. */
export function readable(bytes: Uint8Array, limit = 60): string {
  let text = "";
  for (const c of new TextDecoder().decode(bytes)) {
    const code = c.codePointAt(0) ?? 0;
    if (c === "\r" || c === "\n") text += "⏎";
    else if (c === "\t") text += "⇥";
    else if (code === 0x7f) text += "⌫";
    else if (code === 0x1b) text += "⎋";
    else if (code < 0x20) text += "⌃" + String.fromCharCode(code + 64);
    else text += c;
    if (text.length >= limit) return text.slice(0, limit - 1) + "…";
  }
  return text;
}
