// The workspace's tree on the page: kept up to date, and what is open in it.

import { Problem } from "../api/problem";
import * as api from "../api/workspace";
import { isWithin, parentOf } from "../lib/paths";
import { Tree, type Item } from "../lib/tree";

/** Changes that come in quick succession are fetched together, this far apart, in milliseconds. */
const GAP_MS = 80;

export class WorkspaceFiles {
  readonly tree = new Tree();
  /** Rises with every change of the tree: what derives from it reads this. */
  version = $state(0);
  loaded = $state(false);
  problem = $state.raw<Problem | undefined>();
  open = $state.raw<ReadonlySet<string>>(new Set());
  selected = $state<string | undefined>();
  #running: Promise<void> | undefined;
  #fetchedAt = Number.NEGATIVE_INFINITY;
  #wanted = -1;

  /** `changed` is told which items came anew. */
  constructor(
    private readonly uuid: string,
    private readonly changed: (items: Item[]) => void,
  ) {}

  /** Brings the tree to at least `rev`; without, to whatever the server has. It is there when this returns. */
  async refresh(rev = Number.POSITIVE_INFINITY): Promise<void> {
    if (this.loaded && rev <= this.tree.rev) return;
    this.#wanted = Math.max(this.#wanted, rev);
    await (this.#running ??= this.#run());
  }

  async #run(): Promise<void> {
    try {
      while (this.#wanted > this.tree.rev || !this.loaded) {
        const wait = this.#fetchedAt + GAP_MS - performance.now();
        if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
        this.#wanted = -1;
        this.#fetchedAt = performance.now();
        await this.#fetch();
      }
      this.problem = undefined;
    } catch (error) {
      this.problem = Problem.from(error);
    } finally {
      this.#running = undefined;
    }
  }

  async #fetch(): Promise<void> {
    if (!this.loaded) {
      const { rev, items } = await api.tree(this.uuid);
      this.tree.replace(rev, items);
      this.loaded = true;
      this.version += 1;
      return;
    }
    const { rev, items, complete } = await api.tree(this.uuid, this.tree.rev);
    if (complete) {
      const gone = this.tree.replace(rev, items);
      this.version += 1;
      this.changed([...items, ...gone]);
      return;
    }
    if (this.tree.update(rev, items).length > 0) this.version += 1;
    this.changed(items);
  }

  /** Shows paths that the session's folder has and the workspace cannot. */
  showStrays(paths: string[]): void {
    this.tree.setStrays(paths);
    this.version += 1;
  }

  isOpen(folder: string): boolean {
    return this.open.has(folder);
  }

  setOpen(folder: string, open: boolean): void {
    const next = new Set(this.open);
    if (open) next.add(folder);
    else next.delete(folder);
    this.open = next;
  }

  /** Opens every folder above a path and selects it. */
  reveal(path: string): void {
    const next = new Set(this.open);
    for (let at = parentOf(path); at; at = parentOf(at)) next.add(at);
    this.open = next;
    this.selected = path;
  }

  collapseAll(): void {
    this.open = new Set();
  }

  /** One atomic change of the tree; the tree shows it when this returns. Answers its revision. */
  async batch(ops: api.Op[]): Promise<number> {
    const { rev } = await api.batch(this.uuid, ops);
    await this.refresh(rev);
    return rev;
  }

  /** Folders stay open under their new name. */
  followMove(from: string, to: string): void {
    this.open = new Set([...this.open].map((path) => (isWithin(path, from) ? to + path.slice(from.length) : path)));
  }
}
