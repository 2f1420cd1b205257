// What keeps the session's folder and the workspace out of step: paths that
// cannot be synced, a mass delete that is held, and conflicts to decide.

import { Problem } from "../api/problem";
import * as historyApi from "../api/history";
import type { Version } from "../api/history";
import * as syncApi from "../api/sync";
import type { HeldDelete, SyncProblem } from "../api/sync";
import { parentOf } from "../lib/paths";
import { toasts } from "./toasts.svelte";
import type { WorkspaceFiles } from "./files.svelte";
import type { Recall } from "./recall";

/** Problems that come in quick succession are asked for together, this far apart, in milliseconds. */
const GAP_MS = 250;

/** What the session said, as a sentence. */
function sentence(text: string): string {
  const whole = text.charAt(0).toLocaleUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

export class Trouble {
  problems = $state.raw<SyncProblem[]>([]);
  /** How many more there are than are listed. */
  more = $state(0);
  held = $state.raw<HeldDelete | undefined>();
  /** Conflicts that nobody has settled, newest first. */
  conflicts = $state.raw<Version[]>([]);
  /** Those that came while this page was open and were not put away: each is shown once, at its file. */
  fresh = $state.raw<ReadonlySet<number>>(new Set());
  deciding = $state(false);

  readonly byPath = $derived(new Map(this.problems.map((problem) => [problem.path, problem])));
  /** How many paths below a folder cannot be synced. */
  readonly inFolder = $derived.by(() => {
    const counts = new Map<string, number>();
    for (const { path } of this.problems) {
      for (let at = parentOf(path); at; at = parentOf(at)) counts.set(at, (counts.get(at) ?? 0) + 1);
    }
    return counts;
  });
  readonly problemCount = $derived(this.problems.length + this.more);
  #asking = false;
  #again = false;
  #told = new Set<string>();

  constructor(
    private readonly uuid: string,
    private readonly files: WorkspaceFiles,
    private readonly recall: Recall,
    /** Shows the list of problems. */
    private readonly show: () => void,
  ) {}

  /** Asks for the problems; calls that come meanwhile become one more question. */
  async refresh(): Promise<void> {
    this.#again = true;
    if (this.#asking) return;
    this.#asking = true;
    try {
      while (this.#again) {
        this.#again = false;
        this.#take(await syncApi.problems(this.uuid));
        await new Promise((resolve) => setTimeout(resolve, GAP_MS));
      }
    } catch (error) {
      // The next event or reconnect asks again.
      if (!Problem.from(error).isOffline) console.warn("problems of file sync could not be read", error);
    } finally {
      this.#asking = false;
    }
  }

  /** What the sync event says of problems; they are asked for only if that is news. */
  heard(problems: number | undefined, held: boolean): void {
    if (problems !== this.problemCount || held !== (this.held !== undefined)) void this.refresh();
  }

  #take({ problems, more, mass_delete }: syncApi.SyncProblems): void {
    this.problems = problems.map((problem) => ({ ...problem, message: sentence(problem.message) }));
    this.more = more;
    this.held = mass_delete ?? undefined;
    this.files.showStrays(problems.map((problem) => problem.path));
    const fresh = problems.filter((problem) => !this.#told.has(`${problem.code} ${problem.path}`));
    // What was told once is not told again when it comes back, such as after a restart.
    for (const { code, path } of fresh) this.#told.add(`${code} ${path}`);
    const [first] = fresh;
    if (!first) return;
    const alone = this.problemCount === 1;
    const text = alone ? `${first.path} is not kept in step: ${sentence(first.message)}` : `${this.problemCount} paths are not kept in step.`;
    toasts.say(text, { label: "Show", run: this.show }, "problems");
  }

  /** The session does not run: nothing is known of its folder. */
  forget(): void {
    this.problems = [];
    this.more = 0;
    this.held = undefined;
    this.files.showStrays([]);
  }

  async decideHeld(remove: boolean): Promise<void> {
    this.deciding = true;
    try {
      await syncApi.decideMassDelete(this.uuid, remove);
      this.held = undefined;
    } catch (error) {
      toasts.fail("The decision did not arrive", Problem.from(error));
    } finally {
      this.deciding = false;
      void this.refresh();
    }
  }

  // Conflicts.

  async refreshConflicts(): Promise<void> {
    try {
      const open = await historyApi.history(this.uuid, { conflicts: true });
      // What stands at the path is the very same by now: there is nothing left to decide.
      const moot = open.filter((version) => this.itemOf(version)?.hash === version.hash);
      for (const { version } of moot) await historyApi.settleConflict(this.uuid, version);
      this.conflicts = open.filter((version) => !moot.includes(version));
    } catch (error) {
      if (!Problem.from(error).isOffline) console.warn("conflicts could not be read", error);
    }
  }

  /** A conflict happened now. Answers it, unless it is none any more. */
  async happened(version: number, rev: number): Promise<Version | undefined> {
    await this.files.refresh(rev);
    await this.refreshConflicts();
    const conflict = this.conflicts.find((open) => open.version === version);
    if (conflict) this.fresh = new Set([...this.fresh, version]);
    return conflict;
  }

  /** Where the item of a version is now; where it then was, if it is gone. */
  pathOf(version: Version): string {
    return this.itemOf(version)?.path ?? version.path;
  }

  itemOf(version: Version) {
    const there = this.files.tree.items.get(version.path);
    if (there?.id === version.item) return there;
    for (const item of this.files.tree.items.values()) if (item.id === version.item) return item;
    return there;
  }

  /** A conflict's note was closed: it is not shown at its file again, but stays in the list. */
  putAway(conflict: Version): void {
    this.fresh = new Set([...this.fresh].filter((version) => version !== conflict.version));
  }

  /** The workspace's text stands; the session's stays in the history. */
  async keepMine(conflict: Version): Promise<void> {
    try {
      await historyApi.settleConflict(this.uuid, conflict.version);
      this.putAway(conflict);
      this.conflicts = this.conflicts.filter((open) => open.version !== conflict.version);
    } catch (error) {
      toasts.fail("The choice was not noted", Problem.from(error));
    }
  }

  /** The session's bytes become the file; what stood goes to the history. */
  async takeTheirs(conflict: Version): Promise<void> {
    if (await this.recall.version(conflict, this.pathOf(conflict), "the terminal wrote it")) await this.keepMine(conflict);
  }
}
