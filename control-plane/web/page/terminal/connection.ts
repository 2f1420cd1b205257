// One view of one terminal: the protocol between the socket, the cores and a
// screen. Knows nothing of xterm but `Screen`.

import { LastingSocket, type Link } from "../api/socket";
import { InputQueue, type NotSent } from "../lib/input-queue";
import { OutputAck } from "../lib/output-ack";
import { ReplayGate } from "../lib/replay-gate";
import { firstEnter, type SaveGate } from "../lib/save-gate";
import { inputFrame, read, type Attach } from "../lib/terminal-protocol";

/** Parsed output is acknowledged this long after the last of it, in milliseconds. */
const IDLE_ACK_MS = 50;
const NOTHING = new Uint8Array();

/** Where a terminal is painted. */
export interface Screen {
  size(): { cols: number; rows: number };
  /** Calls back once the bytes are parsed, and before any that are written later. */
  write(bytes: Uint8Array, parsed: () => void): void;
  /** Forgets everything: a snapshot follows. */
  reset(cols: number, rows: number): void;
  resize(cols: number, rows: number): void;
}

export interface Ended {
  code: number | null;
  signal: string | number | null;
}

export interface Listener {
  link(link: Link): void;
  /** The first output is painted: the terminal can be used. */
  ready(): void;
  exited(ended: Ended): void;
  /** Keys that the shell may not have got. */
  notSent(lost: NotSent): void;
  notice(message: string): void;
}

export class TerminalConnection {
  readonly gate = new ReplayGate();
  #queue = new InputQueue();
  #output = new OutputAck();
  #socket: LastingSocket;
  #epoch: string | number | undefined;
  #ready = false;
  #attached = false;
  #looked = true;
  #ended = false;
  #closed = false;
  /** Where the output ended when the terminal was looked at again. */
  #lastByte: number | undefined;
  #pendingSnapshot: Uint8Array<ArrayBuffer>[] = [];
  #idle: ReturnType<typeof setTimeout> | undefined;
  #held: ReturnType<typeof setTimeout> | undefined;
  #stopListening: () => void;

  constructor(
    path: string,
    private readonly viewer: string,
    private readonly screen: Screen,
    private readonly saves: SaveGate,
    private readonly listener: Listener,
  ) {
    this.#stopListening = saves.onSettle(() => this.#pump());
    this.#socket = new LastingSocket(path, {
      opened: () => this.#attach(),
      message: (frame) => this.#heard(frame),
      // A hidden terminal takes its place again when it is looked at; keys typed before go at once.
      rests: () => !this.#looked && this.unsent === 0,
      changed: (link) => {
        if (link.state !== "open") this.#attached = false;
        if (link.state === "ended" && !this.#ended) this.#tellLost(this.#queue.abandon());
        this.listener.link(link);
      },
    }, "terminal");
    this.#socket.start();
  }

  /** Types bytes; false if too much waits already. */
  type(bytes: Uint8Array<ArrayBuffer>): boolean {
    if (this.#ended) return true;
    const taken = this.#queue.push(bytes);
    this.#pump();
    return taken;
  }

  resize(cols: number, rows: number): void {
    if (this.#attached) this.#send({ type: "resize", cols, rows });
  }

  /** Whether anybody looks: a hidden terminal gets no output and does not count for the size. */
  look(looked: boolean): void {
    if (looked === this.#looked) return;
    this.#looked = looked;
    if (this.#attached) this.#send({ type: "visible", visible: looked });
    else if (looked) this.#socket.retryNow();
  }

  retryNow(): void {
    this.#socket.retryNow();
  }

  /** Bytes typed and not yet given to the shell. */
  get unsent(): number {
    return this.#queue.waitingBytes + this.#queue.unackedBytes;
  }

  close(): void {
    this.#closed = true;
    this.#stopListening();
    clearTimeout(this.#idle);
    clearTimeout(this.#held);
    this.#socket.stop();
  }

  #attach(): void {
    const attach: Attach = { type: "attach", viewer: this.viewer, ...this.screen.size(), caps: ["bin", "ack"] };
    if (this.#epoch !== undefined) Object.assign(attach, { epoch: this.#epoch, from: this.#output.received });
    this.#pendingSnapshot = [];
    this.#send(attach);
  }

  #heard(frame: string | ArrayBuffer): void {
    const heard = read(frame);
    if (!heard) return;
    const { message, bytes } = heard;
    switch (message.type) {
      case "hello": {
        this.#socket.proved();
        const known = this.#epoch;
        this.#epoch = message.epoch;
        // An older server does not say where the replay ends: then nothing is one.
        if (known !== undefined && message.offset !== undefined && message.offset > this.#output.parsed) this.gate.begin(message.offset);
        // Looked at again on the same socket: what follows was written meanwhile, and all else is as it was.
        if (this.#attached && known === message.epoch) {
          this.#lastByte = message.offset;
          this.#stopAtEnd();
          break;
        }
        const resumed = this.#queue.resume(String(message.epoch), message.input_seq);
        this.#attached = true;
        if ("lost" in resumed) this.#tellLost(resumed.lost);
        else for (const again of resumed.again) this.#socket.send(inputFrame(again));
        const { cols, rows } = this.screen.size();
        this.resize(cols, rows);
        if (!this.#looked) this.#send({ type: "visible", visible: false });
        this.#pump();
        break;
      }
      case "snapshot":
        if (bytes) this.#pendingSnapshot.push(bytes);
        if (message.more) break;
        this.#output.startAt(message.offset);
        this.#inOrder(() => this.screen.reset(message.cols, message.rows));
        for (const part of this.#pendingSnapshot.splice(0)) this.#paint(part, message.offset);
        break;
      case "output": {
        if (!bytes) break;
        const known = this.#output.receive(message.offset, bytes.length);
        if (known < 0) return this.#socket.reconnect();
        const start = message.offset + known;
        // Cut where a replay ends, so that what is live is answered.
        const replayed = Math.max(0, Math.min(bytes.length - known, (this.gate.until ?? start) - start));
        if (replayed > 0) this.#paint(bytes.subarray(known, known + replayed), start + replayed);
        if (known + replayed < bytes.length) this.#paint(bytes.subarray(known + replayed), message.offset + bytes.length);
        break;
      }
      case "input_ack":
        this.#queue.ack(message.seq);
        this.#pump();
        break;
      case "resize":
      case "resized":
        this.#inOrder(() => this.screen.resize(message.cols, message.rows));
        break;
      case "exit":
        this.#ended = true;
        this.#tellLost(this.#queue.abandon());
        // A hidden one has its last output still to come, once it is looked at.
        if (this.#looked) this.#socket.stop();
        this.listener.exited({ code: message.code, signal: message.signal });
        break;
      case "notice":
      case "error":
        this.listener.notice(message.message);
        break;
    }
  }

  /** After all output that came before, which the screen may still have to parse, and before all that comes. */
  #inOrder(change: () => void): void {
    this.screen.write(NOTHING, () => {
      if (!this.#closed) change();
    });
  }

  #paint(bytes: Uint8Array, end: number): void {
    this.screen.write(bytes, () => {
      this.gate.parsed(end);
      this.#stopAtEnd();
      this.#acknowledge(this.#output.parse(end));
      clearTimeout(this.#idle);
      this.#idle = setTimeout(() => this.#acknowledge(this.#output.flush()), IDLE_ACK_MS);
      if (!this.#ready) {
        this.#ready = true;
        this.listener.ready();
      }
    });
  }

  /** All is painted of a terminal that ended while it was hidden. */
  #stopAtEnd(): void {
    if (this.#ended && this.#lastByte !== undefined && this.#output.received >= this.#lastByte) this.#socket.stop();
  }

  #acknowledge(offset: number | undefined): void {
    if (offset !== undefined && this.#attached) this.#send({ type: "ack", offset });
  }

  /** Sends what the window and a save in flight allow. */
  #pump(): void {
    if (!this.#attached) return;
    clearTimeout(this.#held);
    const hold = this.saves.holdMs();
    if (hold > 0) this.#held = setTimeout(() => this.#pump(), hold + 1);
    for (;;) {
      const frame = this.#queue.take(hold > 0 ? firstEnter : undefined, this.saves.rev);
      if (!frame) return;
      this.#socket.send(inputFrame(frame));
    }
  }

  #send(message: object): void {
    this.#socket.send(JSON.stringify(message));
  }

  #tellLost(lost: NotSent): void {
    if (lost.unsure.length + lost.waiting.length > 0) this.listener.notSent(lost);
  }
}
