// An open file: its text on the server, the user's text in the editor, and how
// the two are brought together. Knows nothing of the editor but `Buffer`.

import { Problem } from "../api/problem";
import type { Expect, Saved } from "../api/workspace";
import { Backoff } from "../lib/backoff";
import { edits, type Edit } from "../lib/diff";
import { merge3 } from "../lib/merge";
import type { SaveGate } from "../lib/save-gate";
import { decode, encode, LARGE_BYTES, type TextFile, type TextForm } from "../lib/text-file";

/** A change is saved this long after the last key, in milliseconds. */
const AUTOSAVE_MS = 900;
/** A save that met a newer revision merges and tries again at most this often. */
const MERGE_ROUNDS = 4;
/** Answers to a save that expected another revision, or any. */
const CHANGED = [404, 409, 410, 412];

/** The editor's hold on a text. */
export interface Buffer {
  text(): string;
  /** `undoable` edits are the user's own; others come from outside and stay out of the undo history. */
  apply(edits: Edit[], undoable: boolean): void;
  destroy(): void;
}

/** Where files are read and saved. */
export interface Files {
  read(path: string): Promise<{ rev: number; bytes: Uint8Array<ArrayBuffer> }>;
  save(path: string, bytes: Uint8Array<ArrayBuffer>, expect: Expect): Promise<Saved>;
}

export interface Surroundings {
  files: Files;
  gate: SaveGate;
  makeBuffer(doc: Document, text: string, form: TextForm): Promise<Buffer> | Buffer;
  sizeOf(path: string): number | undefined;
}

export type Phase = "loading" | "ready" | "binary" | "large" | "failed";

export interface Conflict {
  /** What a save has to expect. */
  rev: number;
  bytes: Uint8Array<ArrayBuffer>;
  /** Undefined if theirs is no longer text. */
  theirs: TextFile | undefined;
}

export class Document {
  path = $state("");
  phase = $state<Phase>("loading");
  form = $state.raw<TextForm>({ lineEnd: "LF", bom: false });
  size = $state(0);
  /** The editor's text is not (yet) what the server has. */
  dirty = $state(false);
  saving = $state(false);
  /** The file was deleted elsewhere; the text here is kept. */
  deleted = $state(false);
  /** Both sides changed the same lines. */
  conflict = $state.raw<Conflict | undefined>();
  /** The text changed from outside just now; `before` is what stood here. */
  outside = $state.raw<{ rev: number; before: string } | undefined>();
  /** Why the last save, or opening, failed. */
  problem = $state.raw<Problem | undefined>();

  buffer: Buffer | undefined;
  #base = "";
  #rev = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #autosave: ReturnType<typeof setTimeout> | undefined;
  #backoff = new Backoff();
  #closed = false;

  constructor(
    path: string,
    private readonly around: Surroundings,
  ) {
    this.path = path;
  }

  get rev(): number {
    return this.#rev;
  }

  /** The text as the server last had it. */
  get base(): string {
    return this.#base;
  }

  /** Fetches the file; a large one only if `anyway`. */
  open(anyway = false): Promise<void> {
    return this.#inTurn(async () => {
      this.size = this.around.sizeOf(this.path) ?? 0;
      if (!anyway && this.size > LARGE_BYTES) {
        this.phase = "large";
        return;
      }
      this.phase = "loading";
      this.problem = undefined;
      try {
        const { rev, bytes } = await this.around.files.read(this.path);
        this.size = bytes.length;
        this.#rev = rev;
        const file = decode(bytes);
        if (!file) {
          this.phase = "binary";
          return;
        }
        this.#base = file.text;
        this.form = { lineEnd: file.lineEnd, bom: file.bom };
        this.buffer = await this.around.makeBuffer(this, file.text, this.form);
        this.phase = "ready";
      } catch (error) {
        this.problem = Problem.from(error);
        this.phase = "failed";
      }
    });
  }

  /** The user typed. */
  edited(): void {
    this.dirty = true;
    this.outside = undefined;
    this.#scheduleSave(AUTOSAVE_MS);
  }

  /** Brings the user's text to the server; true if it is there now. */
  async save(): Promise<boolean> {
    clearTimeout(this.#autosave);
    if (!this.buffer || this.conflict || this.deleted) return false;
    if (!this.dirty) return true;
    // From this moment on a command typed in the terminal waits for the answer.
    const ticket = this.around.gate.begin();
    let saved: number | undefined;
    this.saving = true;
    try {
      saved = await this.#inTurn(() => this.#push("edit"));
    } finally {
      this.around.gate.settle(ticket, saved);
      this.saving = false;
    }
    return saved !== undefined;
  }

  /** The file changed on the server: its text is fetched and merged, unless it is known. */
  changedOutside(rev: number, from: "pod" | "elsewhere" = "elsewhere"): Promise<void> {
    return this.#inTurn(async () => {
      if (rev <= this.#rev || this.phase === "large" || this.phase === "failed") return;
      if (this.phase === "binary" || !this.buffer) {
        this.#rev = rev;
        this.size = this.around.sizeOf(this.path) ?? this.size;
        return;
      }
      await this.#guarded(() => this.#reconcile(from === "pod"));
    });
  }

  deletedOutside(): void {
    if (this.phase === "ready") this.deleted = true;
    else this.phase = "failed";
    clearTimeout(this.#autosave);
  }

  /** Writes a deleted file again, with the text kept here. */
  restore(): Promise<boolean> {
    return this.#inTurn(async () => (await this.#push("restore")) !== undefined);
  }

  /** Mine wins; theirs stays in the history. */
  keepMine(): Promise<boolean> {
    return this.#inTurn(async () => {
      const conflict = this.conflict;
      if (!conflict) return true;
      this.#rev = conflict.rev;
      this.#base = conflict.theirs?.text ?? "";
      this.conflict = undefined;
      this.dirty = true;
      return (await this.#push("edit")) !== undefined;
    });
  }

  /** Theirs wins; mine is saved below it, so that it stays in the history, and can be had back by undo, too. */
  takeTheirs(): Promise<boolean> {
    return this.#inTurn(async () => {
      this.problem = undefined;
      try {
        await this.#putTheirsOnMine();
        return true;
      } catch (error) {
        const problem = Problem.from(error);
        // It changed once more: then that is what there is to decide about.
        if (CHANGED.includes(problem.status)) await this.#guarded(() => this.#reconcile(false));
        else this.problem = problem;
        if (this.deleted) this.conflict = undefined;
        return false;
      }
    });
  }

  async #putTheirsOnMine(): Promise<void> {
    const { conflict, buffer } = this;
    if (!conflict || !buffer) return;
    const mine = buffer.text();
    let rev = conflict.rev;
    // What nobody edited is in the history already.
    if (mine !== this.#base) {
      rev = (await this.around.files.save(this.path, encode(mine, this.form), { rev })).rev;
      // Should the next step fail, this is what the one after it has to expect.
      this.conflict = { ...conflict, rev };
      rev = (await this.around.files.save(this.path, conflict.bytes, { rev })).rev;
    }
    this.conflict = undefined;
    this.#rev = rev;
    this.size = conflict.bytes.length;
    if (!conflict.theirs) {
      this.phase = "binary";
      this.dirty = false;
      return;
    }
    buffer.apply(edits(buffer.text(), conflict.theirs.text), true);
    this.#settleOn(conflict.theirs);
  }

  /** Takes back what came from outside, as an edit of the user's. */
  undoOutside(): void {
    const before = this.outside?.before;
    if (before === undefined || !this.buffer) return;
    this.buffer.apply(edits(this.buffer.text(), before), true);
    this.edited();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#autosave);
    this.buffer?.destroy();
  }

  /** Saves the buffer; answers the revision that holds it, or undefined if it could not be saved. */
  async #push(why: "edit" | "restore"): Promise<number | undefined> {
    const buffer = this.buffer;
    if (!buffer) return undefined;
    for (let round = 0; round < MERGE_ROUNDS; round += 1) {
      const text = buffer.text();
      if (why === "edit" && text === this.#base && !this.deleted) {
        this.dirty = false;
        return this.#rev;
      }
      const bytes = encode(text, this.form);
      try {
        const saved = await this.around.files.save(this.path, bytes, why === "restore" ? "absent" : { rev: this.#rev });
        this.#rev = saved.rev;
        this.#base = text;
        this.size = saved.size;
        this.deleted = false;
        this.problem = undefined;
        this.#backoff.reset();
        this.dirty = buffer.text() !== text;
        if (this.dirty) this.#scheduleSave(AUTOSAVE_MS);
        return saved.rev;
      } catch (error) {
        const problem = Problem.from(error);
        if (problem.status === 404 || problem.status === 410) this.deleted = true;
        else if (problem.status === 409 || problem.status === 412) {
          why = "edit";
          this.deleted = false;
          await this.#guarded(() => this.#reconcile(false));
          if (!this.conflict && !this.deleted && !this.problem) continue;
        } else {
          this.problem = problem;
          if (problem.isOffline || problem.status >= 500) this.#scheduleSave(this.#backoff.next());
        }
        return undefined;
      }
    }
    this.#scheduleSave(AUTOSAVE_MS);
    return undefined;
  }

  /** Fetches the server's text and merges it into the buffer. */
  async #reconcile(tell: boolean): Promise<void> {
    const buffer = this.buffer;
    if (!buffer) return;
    const { rev, bytes } = await this.around.files.read(this.path);
    const theirs = decode(bytes);
    const mine = buffer.text();
    this.deleted = false;
    this.problem = undefined;
    this.size = bytes.length;
    if (!theirs) {
      this.conflict = { rev, bytes, theirs };
      return;
    }
    const merge = merge3(this.#base, mine, theirs.text);
    if (!merge.clean) {
      this.conflict = { rev, bytes, theirs };
      clearTimeout(this.#autosave);
      return;
    }
    this.conflict = undefined;
    this.#rev = rev;
    if (merge.edits.length > 0) {
      buffer.apply(merge.edits, false);
      if (tell) this.outside = { rev, before: mine };
    }
    this.#settleOn(theirs);
    if (this.dirty) this.#scheduleSave(AUTOSAVE_MS);
  }

  #settleOn(theirs: TextFile): void {
    this.#base = theirs.text;
    this.form = { lineEnd: theirs.lineEnd, bom: theirs.bom };
    this.dirty = this.buffer?.text() !== theirs.text;
  }

  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const problem = Problem.from(error);
      if (problem.status === 404 || problem.status === 410) this.deletedOutside();
      else this.problem = problem;
    }
  }

  #scheduleSave(ms: number): void {
    clearTimeout(this.#autosave);
    if (this.#closed || this.conflict || this.deleted) return;
    this.#autosave = setTimeout(() => void this.save(), ms);
  }

  /** One at a time: a save and a change from outside never cross. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work, work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }
}
