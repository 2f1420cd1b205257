// The history of a file, of a folder with all below it, or of everything: as
// far as it was read, newest first.

import { Problem } from "../api/problem";
import { history, type Version } from "../api/history";

/** Versions in one answer. */
const PAGE = 100;

export class Past {
  versions = $state.raw<Version[] | undefined>();
  problem = $state.raw<Problem | undefined>();
  /** Whether there are older ones than those read. */
  more = $state(false);
  reading = $state(false);
  #again = false;

  constructor(
    private readonly uuid: string,
    readonly path: string | undefined,
  ) {}

  /** Reads what is new; what was read before stays. */
  async refresh(): Promise<void> {
    this.#again = true;
    if (this.reading) return;
    while (this.#again) {
      this.#again = false;
      await this.#read(undefined);
    }
  }

  older(): Promise<void> {
    return this.reading ? Promise.resolve() : this.#read(this.versions?.at(-1)?.version);
  }

  async #read(before: number | undefined): Promise<void> {
    this.reading = true;
    try {
      const page = await history(this.uuid, { path: this.path, before, limit: PAGE });
      const known = this.versions ?? [];
      const oldest = page.at(-1)?.version ?? 0;
      if (before !== undefined) {
        this.versions = [...known, ...page];
        this.more = page.length === PAGE;
      } else if (known.some((version) => version.version >= oldest)) {
        this.versions = [...page, ...known.filter((version) => version.version < oldest)];
      } else {
        // So much is new that what was read before does not join on.
        this.versions = page;
        this.more = page.length === PAGE;
      }
      this.problem = undefined;
    } catch (error) {
      this.problem = Problem.from(error);
    } finally {
      this.reading = false;
    }
  }
}
