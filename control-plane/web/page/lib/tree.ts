// A workspace's files as a tree, kept up to date by the server's changes and
// flattened to the rows that are open.

import { isWithin, nameOf, parentOf } from "./paths";

export interface Item {
  path: string;
  kind: "file" | "dir" | "symlink";
  mode: number;
  size: number;
  hash?: string | null;
  rev: number;
  /** Kept over renames. */
  id?: string;
  deleted?: boolean;
}

export interface Row {
  path: string;
  name: string;
  /** A stray is in the session's folder and cannot be a file of the workspace. */
  kind: Item["kind"] | "stray";
  /** From 1, as ARIA counts levels. */
  level: number;
  /** Place among its siblings, from 1, and how many they are. */
  place: number;
  siblings: number;
  open: boolean;
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

export class Tree {
  rev = 0;
  readonly items = new Map<string, Item>();
  #children = new Map<string, Set<string>>();
  #sorted = new Map<string, string[]>();
  #strays = new Map<string, Set<string>>();

  /** Takes the whole tree; answers what was there and is gone, as deleted. */
  replace(rev: number, items: Item[]): Item[] {
    const gone = new Map(this.items);
    for (const { path } of items) gone.delete(path);
    this.items.clear();
    this.#children.clear();
    this.#sorted.clear();
    this.rev = rev;
    for (const item of items) this.#set(item);
    return [...gone.values()].map((item) => ({ ...item, rev, deleted: true }));
  }

  /** Takes what changed; answers the paths that did. */
  update(rev: number, items: Item[]): string[] {
    this.rev = Math.max(this.rev, rev);
    const changed: string[] = [];
    for (const item of items) {
      const known = this.items.get(item.path);
      if (known && known.rev > item.rev) continue;
      if (item.deleted) this.#remove(item.path);
      else this.#set(item);
      changed.push(item.path);
    }
    return changed;
  }

  /** Names in a folder: folders first, then as a person counts. */
  childrenOf(folder: string): string[] {
    let sorted = this.#sorted.get(folder);
    if (!sorted) {
      const children = this.#children.get(folder) ?? new Set();
      const strays = [...(this.#strays.get(folder) ?? [])].filter((path) => !children.has(path));
      sorted = [...children, ...strays].sort((a, b) => {
        const aDir = this.items.get(a)?.kind === "dir";
        const bDir = this.items.get(b)?.kind === "dir";
        return aDir === bDir ? collator.compare(nameOf(a), nameOf(b)) || (a < b ? -1 : 1) : aDir ? -1 : 1;
      });
      this.#sorted.set(folder, sorted);
    }
    return sorted;
  }

  /** Paths that the session's folder has and the workspace cannot: shown in their folders, too. */
  setStrays(paths: Iterable<string>): void {
    this.#strays.clear();
    this.#sorted.clear();
    for (const path of paths) {
      const folder = parentOf(path);
      let strays = this.#strays.get(folder);
      if (!strays) this.#strays.set(folder, (strays = new Set()));
      strays.add(path);
    }
  }

  isStray(path: string): boolean {
    return !this.items.has(path) && (this.#strays.get(parentOf(path))?.has(path) ?? false);
  }

  /** Every path below a folder, itself included. */
  within(folder: string): string[] {
    return [...this.items.keys()].filter((path) => isWithin(path, folder));
  }

  /** The rows of all folders in `open`, from the top down. */
  rows(open: ReadonlySet<string>): Row[] {
    const rows: Row[] = [];
    const walk = (folder: string, level: number) => {
      const children = this.childrenOf(folder);
      children.forEach((path, index) => {
        const kind = this.items.get(path)?.kind ?? "stray";
        const isOpen = kind === "dir" && open.has(path);
        rows.push({
          path,
          name: nameOf(path),
          kind,
          level,
          place: index + 1,
          siblings: children.length,
          open: isOpen,
        });
        if (isOpen) walk(path, level + 1);
      });
    };
    walk("", 1);
    return rows;
  }

  #set(item: Item): void {
    const known = this.items.get(item.path);
    this.items.set(item.path, item);
    if (known && known.kind === item.kind) return;
    const folder = parentOf(item.path);
    let children = this.#children.get(folder);
    if (!children) this.#children.set(folder, (children = new Set()));
    children.add(item.path);
    this.#sorted.delete(folder);
  }

  #remove(path: string): void {
    this.items.delete(path);
    const folder = parentOf(path);
    this.#children.get(folder)?.delete(path);
    this.#sorted.delete(folder);
  }
}

/** Which rows to draw: those in view and a few more, so that scrolling shows no gap. */
export function rowsInView(top: number, height: number, rowHeight: number, count: number, spare = 12) {
  const first = Math.max(0, Math.min(count, Math.floor(top / rowHeight) - spare));
  const last = Math.min(count, Math.ceil((top + height) / rowHeight) + spare);
  return { first, last: Math.max(first, last) };
}
