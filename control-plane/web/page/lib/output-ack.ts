// Flow control of a terminal's output: the page acknowledges bytes that xterm
// has *parsed*, so that what waits in front of the user stays small and Ctrl-C
// is felt at once.

/** An acknowledgement goes out after this many parsed bytes. */
export const ACK_EVERY = 16 * 1024;

export class OutputAck {
  /** The number of the next byte expected from the terminal. */
  received = 0;
  /** The number of the next byte not yet parsed. */
  parsed = 0;
  #acked = 0;

  /** Numbering starts at `offset` (a snapshot, or a resume). */
  startAt(offset: number): void {
    this.received = this.parsed = this.#acked = offset;
  }

  /**
   * Output arrived. Answers how many of its first bytes are known already, or
   * -1 if bytes before it are missing and the viewer must attach anew.
   */
  receive(offset: number, length: number): number {
    if (offset > this.received) return -1;
    const known = Math.min(this.received - offset, length);
    this.received = Math.max(this.received, offset + length);
    return known;
  }

  /** Bytes up to `offset` were parsed; answers the offset to acknowledge now, if any. */
  parse(offset: number): number | undefined {
    this.parsed = Math.max(this.parsed, offset);
    return this.parsed - this.#acked >= ACK_EVERY ? this.flush() : undefined;
  }

  /** The offset to acknowledge when nothing more is coming, if any. */
  flush(): number | undefined {
    if (this.parsed === this.#acked) return undefined;
    this.#acked = this.parsed;
    return this.#acked;
  }
}
