// While output that the shell wrote earlier is painted again, xterm answers the
// queries in it a second time. Those answers would be typed into the shell, so
// until the replay is parsed only what a person typed may pass.

export class ReplayGate {
  #until: number | undefined;
  #byPerson = false;

  get replaying(): boolean {
    return this.#until !== undefined;
  }

  /** The number of the first byte that is no replay, while there is one. */
  get until(): number | undefined {
    return this.#until;
  }

  /** A replay begins; it ends once the byte before `until` is parsed. */
  begin(until: number): void {
    this.#until = until;
  }

  /** Bytes up to `offset` are parsed. */
  parsed(offset: number): void {
    if (this.#until !== undefined && offset >= this.#until) this.#until = undefined;
  }

  /** xterm says that the data it is about to send comes from a key, a paste, an IME or the mouse. */
  personActed(): void {
    this.#byPerson = true;
  }

  /** Whether data that xterm sends now may go to the shell. Asked once per piece of data. */
  admits(): boolean {
    const byPerson = this.#byPerson;
    this.#byPerson = false;
    return byPerson || !this.replaying;
  }
}
