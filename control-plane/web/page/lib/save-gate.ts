// "Save, then run" for a person: Enter typed while a save is on its way waits
// for the save's answer, and every command names the revision it must see.

/** A command waits at most this long for a save to be answered, in milliseconds. */
export const HOLD_MS = 2_000;

export class SaveGate {
  #inFlight = new Map<number, number>();
  #next = 1;
  #rev = 0;
  #listeners = new Set<() => void>();

  constructor(private readonly now: () => number = () => performance.now()) {}

  /** The highest revision whose save was acknowledged to this page; 0 for none. */
  get rev(): number {
    return this.#rev;
  }

  /** A save leaves now. The answer settles it. */
  begin(): number {
    const save = this.#next++;
    this.#inFlight.set(save, this.now());
    return save;
  }

  /** The save was answered: with its revision, or, when it failed, without. */
  settle(save: number, rev?: number): void {
    if (rev !== undefined && rev > this.#rev) this.#rev = rev;
    this.#inFlight.delete(save);
    for (const listener of [...this.#listeners]) listener();
  }

  /** How much longer a command has to wait, in milliseconds; 0 if it may go. */
  holdMs(): number {
    let longest = 0;
    for (const began of this.#inFlight.values()) {
      longest = Math.max(longest, began + HOLD_MS - this.now());
    }
    return longest;
  }

  /** Calls back whenever a save is settled; answers how to stop that. */
  onSettle(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** Where in typed bytes the first key stands that can start a command (Enter), or -1. */
export function firstEnter(bytes: Uint8Array): number {
  return bytes.findIndex((b) => b === 0x0d || b === 0x0a);
}
