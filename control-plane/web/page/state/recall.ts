// Bringing back what was: every way is a new revision, and says how to take it
// back.

import { Problem } from "../api/problem";
import * as api from "../api/workspace";
import { restore, undo, versionBytes, type Done, type Version } from "../api/history";
import { nameOf } from "../lib/paths";
import type { WorkspaceFiles } from "./files.svelte";
import { toasts } from "./toasts.svelte";

export class Recall {
  constructor(
    private readonly uuid: string,
    private readonly files: WorkspaceFiles,
    /** Saves what is edited at or below a path, so that it is in the history, too. */
    private readonly saveWithin: (path: string) => Promise<unknown>,
  ) {}

  /** A file, a folder, or (no path) everything, as it was at a revision. */
  async to(path: string | undefined, rev: number, when: string): Promise<boolean> {
    const what = path === undefined ? "All files" : nameOf(path);
    const are = path === undefined ? "are" : "is";
    return this.#attempt(`${what} could not be brought back`, async () => {
      await this.saveWithin(path ?? "");
      const done = await restore(this.uuid, path, rev);
      await this.#tell(done, path, `${what} ${are} as ${when}.`, `${what} ${are} as ${when} already.`);
    });
  }

  /** A version's bytes, at the path where its item is now. */
  async version(version: Version, path: string, when: string): Promise<boolean> {
    if (version.op !== "loser" && version.path === path) return this.to(path, version.rev, when);
    return this.#attempt(`${nameOf(path)} could not be brought back`, async () => {
      const saved = await this.write(path, await versionBytes(this.uuid, version.version));
      await this.#tell({ rev: saved.rev, changed: [saved] }, path, `${nameOf(path)} is as ${when}.`, "");
    });
  }

  /** Undoes the last change of a path, whoever made it. */
  async undo(path: string): Promise<boolean> {
    return this.#attempt(`${nameOf(path)} is as it was`, async () => {
      await this.saveWithin(path);
      const done = await undo(this.uuid, path);
      await this.#tell(done, path, `The last change of ${nameOf(path)} is undone.`, `Nothing of ${nameOf(path)} was to undo.`);
    });
  }

  /** Something was deleted at a revision. */
  deleted(path: string, rev: number): void {
    this.#offer(path, rev, `${nameOf(path)} is deleted.`);
  }

  /** Writes a file over whatever its path holds now. */
  async write(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<api.Saved> {
    await this.saveWithin(path);
    const known = this.files.tree.items.get(path);
    const saved = await api.save(this.uuid, path, bytes, known ? { rev: known.rev } : "absent");
    await this.files.refresh(saved.rev);
    return saved;
  }

  async #tell(done: Done, path: string | undefined, said: string, nothing: string): Promise<void> {
    await this.files.refresh(done.rev);
    if (done.changed.length === 0) toasts.say(nothing);
    else this.#offer(path, done.rev, said);
  }

  #offer(path: string | undefined, rev: number, said: string): void {
    toasts.say(said, {
      label: "Undo",
      run: () =>
        void this.#attempt("It could not be undone", async () => {
          await this.saveWithin(path ?? "");
          await this.files.refresh((await restore(this.uuid, path, rev - 1)).rev);
        }),
    }, `recall ${path ?? ""}`);
  }

  /** Whether it was done; if not, that is said. */
  async #attempt(what: string, work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      toasts.fail(what, Problem.from(error));
      return false;
    }
  }
}
