// Sizes and choices that this browser keeps, for all workspaces.

const KEY = "berth:layout";

/** What local storage holds under a key, laid over defaults; storage may be missing or full of nonsense. */
export function remembered<T extends object>(key: string, defaults: T): T {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(key) ?? "{}");
    return { ...defaults, ...(kept as Partial<T>) };
  } catch {
    return defaults;
  }
}

export function remember(key: string, value: unknown): void {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Full or forbidden: the page works without.
  }
}

export const INITIAL = { tree: 240, terminal: 35 };

class Layout {
  /** The tree's width, in pixels. */
  tree = $state(INITIAL.tree);
  /** The terminal's share of the height, in percent. */
  terminal = $state(INITIAL.terminal);

  constructor() {
    Object.assign(this, remembered(KEY, INITIAL));
    $effect.root(() => {
      $effect(() => remember(KEY, { tree: this.tree, terminal: this.terminal }));
    });
  }
}

export const layout = new Layout();
