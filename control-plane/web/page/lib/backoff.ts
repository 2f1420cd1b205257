// When to try again: full jitter, so that a thousand pages cut off by one
// restart do not come back in one instant.

/** The upper bound of the first wait, in milliseconds. */
export const FIRST_MS = 500;
/** The upper bound of every wait, in milliseconds. */
export const LONGEST_MS = 10_000;

export class Backoff {
  #attempt = 0;

  /** `random` answers numbers in [0, 1); tests steer it. */
  constructor(private readonly random: () => number = Math.random) {}

  /** How long to wait before the next attempt, in milliseconds. */
  next(): number {
    const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#attempt);
    this.#attempt += 1;
    return Math.round(this.random() * ceiling);
  }

  /** Called once a connection has proved good, not merely opened. */
  reset(): void {
    this.#attempt = 0;
  }
}
