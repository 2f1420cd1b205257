// A session's page: its state, its files, what is open, its terminals, and the
// event socket that keeps all of it true.

import { readEvent, type SyncState, type Transfer, type WorkspaceEvent } from "../api/events";
import { signedIn } from "../api/presence";
import { Problem } from "../api/problem";
import * as sessions from "../api/sessions";
import type { Session, TerminalInfo } from "../api/sessions";
import { LastingSocket, type Link } from "../api/socket";
import * as api from "../api/workspace";
import { decode } from "../lib/text-file";
import { isWithin, moved, parsePlace } from "../lib/paths";
import { SaveGate } from "../lib/save-gate";
import type { Item } from "../lib/tree";
import { Document, type Surroundings } from "./document.svelte";
import { WorkspaceFiles } from "./files.svelte";
import { Recall } from "./recall";
import { Trouble } from "./trouble.svelte";
import { Unsaved } from "./unsaved.svelte";
import { Versions } from "./versions.svelte";
import { remember, remembered } from "./layout.svelte";
import { toasts } from "./toasts.svelte";

interface Kept {
  files: string[];
  active: string | null;
  terminal: string | null;
  open: string[];
}

/** What stands beside the editor. */
export type Side = { view: "history"; path: string | undefined } | { view: "trouble" };

export class Workspace {
  session = $state.raw<Session | undefined>();
  problem = $state.raw<Problem | undefined>();
  link = $state.raw<Link>({ state: "connecting" });
  sync = $state.raw<{ state: SyncState; revInPod: number; transfer: Transfer | undefined } | undefined>();
  documents = $state.raw<Document[]>([]);
  active = $state.raw<Document | undefined>();
  /** Where to put the cursor in the active document, once. */
  goTo = $state.raw<{ line: number; column: number } | undefined>();
  terminals = $state.raw<TerminalInfo[] | undefined>();
  terminal = $state<string | undefined>();
  opening = $state(false);
  side = $state.raw<Side | undefined>();
  /** How often somebody asked for a file: it comes to the front then, also if it is the active one already. */
  opened = $state(0);

  readonly gate = new SaveGate();
  readonly letting = new Unsaved<Document>();
  readonly files: WorkspaceFiles;
  readonly trouble: Trouble;
  readonly recall: Recall;
  readonly versions: Versions;
  readonly running = $derived(this.session?.state === "running");
  readonly unsaved = $derived(this.documents.filter((doc) => doc.dirty).length);
  #socket: LastingSocket;
  #lastOrigin = new Map<string, string>();
  #expectTerminal = true;
  /** How often a state of the session was told. */
  #told = 0;
  /** Ends what was asked of a run of the session when the run ends. */
  #run = new AbortController();
  #kept: Kept;
  #stopKeeping: () => void;
  #unlisten: () => void;

  constructor(
    readonly uuid: string,
    place: string | undefined,
    terminal: string | undefined,
    private readonly makeBuffer: Surroundings["makeBuffer"],
  ) {
    this.files = new WorkspaceFiles(uuid, (items) => this.#itemsChanged(items));
    this.recall = new Recall(uuid, this.files, (path) => this.saveWithin(path));
    this.trouble = new Trouble(uuid, this.files, this.recall, () => (this.side = { view: "trouble" }));
    this.versions = new Versions(uuid, (path) => this.textNow(path));
    this.#kept = remembered<Kept>(`berth:workspace:${uuid}`, { files: [], active: null, terminal: null, open: [] });
    this.files.open = new Set(this.#kept.open);
    this.terminal = terminal ?? this.#kept.terminal ?? undefined;
    this.#socket = new LastingSocket(`/api/workspace/${uuid}/events`, {
      opened: () => undefined,
      changed: (link) => (this.link = link),
      message: (frame) => {
        const event = readEvent(frame);
        if (event) this.#heard(event);
      },
    }, "session");
    this.#stopKeeping = $effect.root(() => {
      $effect(() =>
        remember(`berth:workspace:${uuid}`, {
          files: this.documents.map((doc) => doc.path),
          active: this.active?.path ?? null,
          terminal: this.terminal ?? null,
          open: [...this.files.open].slice(0, 500),
        } satisfies Kept),
      );
    });
    this.#unlisten = signedIn.on(this.#back);
    void this.#start(place);
  }

  async #start(place: string | undefined): Promise<void> {
    this.#socket.start();
    await Promise.all([this.loadSession(), this.files.refresh()]);
    for (const path of this.#kept.files) {
      if (this.files.tree.items.get(path)?.kind === "file") this.#ensure(path);
    }
    const wanted = this.documents.find((doc) => doc.path === this.#kept.active) ?? this.documents[0];
    if (place) this.#openPlace(place);
    else if (wanted) this.show(wanted);
  }

  /** Whether the page may leave the workspace: everything is saved, or a person gave it up. */
  mayLeave(): Promise<boolean> {
    return this.letting.mayLetGo(this.documents);
  }

  /** The page leaves the workspace: a goodbye to every socket, and a last try for what is unsaved. */
  close(): void {
    this.letting.answer(false);
    this.#stopKeeping();
    this.#unlisten();
    this.#socket.stop();
    for (const doc of this.documents) {
      if (doc.dirty) void doc.save().finally(() => doc.close());
      else doc.close();
    }
  }

  retryNow = (): void => {
    this.#socket.retryNow();
    if (this.problem) void this.loadSession();
    if (this.files.problem) void this.files.refresh();
  };

  /** Signed in again: whatever failed meanwhile is done now. The socket comes back by itself. */
  #back = (): void => {
    void this.loadSession();
    void this.files.refresh();
    void this.saveAll();
  };

  async loadSession(): Promise<void> {
    try {
      let session: Session;
      let told: number;
      do {
        told = this.#told;
        session = await sessions.get(this.uuid);
        // What was told meanwhile may be newer than the answer.
      } while (told !== this.#told);
      this.session = session;
      this.problem = undefined;
      if (this.session.state === "running") await this.loadTerminals();
      else this.#noTerminals();
    } catch (error) {
      this.problem = Problem.from(error);
    }
  }

  #heard(event: WorkspaceEvent): void {
    this.#socket.proved();
    switch (event.type) {
      case "hello":
        // A lower revision is another history, such as a restored one: what is here is not its.
        void this.files.refresh(this.files.loaded && event.rev >= this.files.tree.rev ? event.rev : undefined);
        void this.loadSession();
        void this.trouble.refresh();
        void this.trouble.refreshConflicts();
        for (const doc of this.documents) if (doc.dirty) void doc.save();
        break;
      case "files":
        for (const path of event.paths) this.#lastOrigin.set(path, event.origin);
        void this.files.refresh(event.rev);
        break;
      case "session":
        this.#told += 1;
        if (this.session) {
          const same = this.session.state === event.state;
          this.session = { ...this.session, state: event.state, reason: event.reason ?? null, ending: event.ending ?? null };
          // Only its end was told: what runs in it is as it was.
          if (same && event.state === "running" && this.terminals) break;
        }
        if (event.state === "running" || !this.session) void this.loadSession();
        else this.#noTerminals();
        break;
      case "terminals":
        if (this.running) void this.loadTerminals();
        break;
      case "sync":
        this.sync = { state: event.state, revInPod: event.rev_in_pod, transfer: event.transfer ?? undefined };
        this.trouble.heard(event.problems, event.state === "held");
        break;
      case "conflict":
        void this.#conflict(event.version, event.rev);
        break;
      case "problem":
        // Without a path it is a word of the session's; with one it is listed with the others.
        if (event.path) void this.trouble.refresh();
        else toasts.say(event.message);
        break;
    }
  }

  async #conflict(version: number, rev: number): Promise<void> {
    const conflict = await this.trouble.happened(version, rev);
    if (!conflict) return;
    const path = this.trouble.pathOf(conflict);
    if (this.active?.path === path) return;
    toasts.say(`${path} was changed on both sides in the same lines. Nothing is lost.`, { label: "Show", run: () => this.openFile(path) });
  }

  #itemsChanged(items: Item[]): void {
    for (const item of items) {
      const doc = this.documents.find((d) => d.path === item.path);
      if (!doc) continue;
      if (item.deleted) doc.deletedOutside();
      else if (item.kind === "file") {
        void doc.changedOutside(item.rev, this.#lastOrigin.get(item.path) === "pod" ? "pod" : "elsewhere");
      }
    }
    this.#lastOrigin.clear();
  }

  #noTerminals(): void {
    this.#run.abort();
    this.#run = new AbortController();
    this.terminals = undefined;
    this.sync = undefined;
    this.trouble.forget();
    this.#expectTerminal = true;
  }

  // Documents.

  #ensure(path: string): Document {
    const known = this.documents.find((doc) => doc.path === path);
    if (known) return known;
    const doc = new Document(path, {
      files: {
        read: (p) => api.read(this.uuid, p),
        save: (p, bytes, expect) => api.save(this.uuid, p, bytes, expect),
      },
      gate: this.gate,
      makeBuffer: this.makeBuffer,
      sizeOf: (p) => this.files.tree.items.get(p)?.size,
    });
    this.documents = [...this.documents, doc];
    return doc;
  }

  /** Opens `path`, `path:line` or `path:line:column` for somebody who asked for it. */
  openFile(place: string): void {
    if (this.#openPlace(place)) this.opened += 1;
  }

  /** Answers whether there is such a file. */
  #openPlace(place: string): boolean {
    const items = this.files.tree.items;
    const { path, line, column } = items.has(place) ? { path: place, line: undefined, column: undefined } : parsePlace(place);
    if (items.get(path)?.kind === "dir") {
      this.files.reveal(path);
      return false;
    }
    if (this.files.loaded && !items.has(path)) {
      toasts.say(`There is no file ${path}.`);
      return false;
    }
    this.show(this.#ensure(path));
    if (line) this.goTo = { line, column: column ?? 1 };
    return true;
  }

  show(doc: Document): void {
    this.active = doc;
    this.files.reveal(doc.path);
    if (doc.phase === "loading" && !doc.buffer) void doc.open();
  }

  /** Closes tabs, all or none: text that cannot be saved only if a person gives it up. */
  async closeDocuments(...list: Document[]): Promise<void> {
    if (await this.letting.mayLetGo(list)) for (const doc of list) this.#drop(doc);
  }

  #drop(doc: Document): void {
    const index = this.documents.indexOf(doc);
    if (index < 0) return;
    doc.close();
    this.documents = this.documents.filter((d) => d !== doc);
    if (this.active !== doc) return;
    const next = this.documents[Math.min(index, this.documents.length - 1)];
    this.active = undefined;
    if (next) this.show(next);
  }

  saveAll(): Promise<unknown> {
    return this.saveWithin("");
  }

  /** Saves what is edited at or below a path. */
  saveWithin(path: string): Promise<unknown> {
    return Promise.all(this.documents.filter((doc) => isWithin(doc.path, path)).map((doc) => doc.save()));
  }

  /** A file's text as it is here now, edits included; empty if it is gone. */
  async textNow(path: string): Promise<string> {
    const open = this.documents.find((doc) => doc.path === path)?.buffer;
    if (open) return open.text();
    if (!this.files.tree.items.has(path)) return "";
    return decode((await api.read(this.uuid, path)).bytes)?.text ?? "";
  }

  // The tree's changes.

  async createFile(path: string): Promise<void> {
    const { rev } = await api.save(this.uuid, path, new Uint8Array(), "absent");
    await this.files.refresh(rev);
    this.openFile(path);
  }

  async createFolder(path: string): Promise<void> {
    await this.files.batch([{ op: "mkdir", path }]);
    this.files.reveal(path);
    this.files.setOpen(path, true);
  }

  async move(from: string, to: string): Promise<void> {
    const affected = this.documents.filter((doc) => isWithin(doc.path, from));
    await Promise.all(affected.map((doc) => doc.save()));
    // The tabs change first, so that the deletion of the old name does not look like one from elsewhere.
    for (const doc of affected) doc.path = moved(doc.path, from, to);
    try {
      await this.files.batch([{ op: "move", from, to }]);
    } catch (error) {
      for (const doc of affected) doc.path = moved(doc.path, to, from);
      throw error;
    }
    this.files.followMove(from, to);
    this.files.reveal(to);
  }

  async delete(path: string): Promise<void> {
    const affected = this.documents.filter((doc) => isWithin(doc.path, path));
    // What was typed last is in the history, too.
    await this.saveWithin(path);
    const rev = await this.files.batch([{ op: "delete", path }]);
    this.recall.deleted(path, rev);
    await this.closeDocuments(...affected);
  }

  /** Saves files that the user brought; each is one revision. */
  async upload(folder: string, list: { path: string; file: File }[]): Promise<void> {
    let failed: Problem | undefined;
    let rev = 0;
    for (const { path, file } of list) {
      try {
        const saved = await api.save(this.uuid, folder ? `${folder}/${path}` : path, file, "anything");
        rev = Math.max(rev, saved.rev);
      } catch (error) {
        failed = Problem.from(error);
        toasts.fail(`${path} was not uploaded`, failed);
        if (failed.isOffline) break;
      }
    }
    if (rev) await this.files.refresh(rev);
    if (!failed) toasts.say(list.length === 1 ? `Uploaded ${list[0]?.path}` : `Uploaded ${list.length} files`);
  }

  // Terminals.

  async loadTerminals(): Promise<void> {
    const { signal } = this.#run;
    try {
      const list = await sessions.terminals(this.uuid, signal);
      if (signal.aborted) return;
      this.terminals = list;
      if (!list.some((t) => t.id === this.terminal)) this.terminal = list[0]?.id;
      // A session just started has none: the first one opens by itself, but not again after it was closed.
      const first = this.#expectTerminal;
      this.#expectTerminal = false;
      if (first && list.length === 0) await this.newTerminal();
    } catch (error) {
      const problem = Problem.from(error);
      if (!signal.aborted && !problem.isOffline) toasts.fail("The terminals could not be listed", problem);
    }
  }

  async newTerminal(): Promise<void> {
    if (this.opening) return;
    this.opening = true;
    const { signal } = this.#run;
    try {
      const { id } = await sessions.openTerminal(this.uuid, 80, 24, signal);
      if (signal.aborted) return;
      if (!this.terminals?.some((t) => t.id === id)) this.terminals = [...(this.terminals ?? []), { id, cols: 80, rows: 24 }];
      this.terminal = id;
    } catch (error) {
      if (!signal.aborted) toasts.fail("A terminal could not be opened", Problem.from(error));
    } finally {
      this.opening = false;
    }
  }

  async closeTerminal(id: string): Promise<void> {
    try {
      await sessions.closeTerminal(this.uuid, id);
    } catch (error) {
      const problem = Problem.from(error);
      if (problem.status !== 404) return toasts.fail("The terminal was not closed", problem);
    }
    const index = this.terminals?.findIndex((t) => t.id === id) ?? 0;
    this.terminals = this.terminals?.filter((t) => t.id !== id);
    if (this.terminal === id) this.terminal = this.terminals?.[Math.max(0, index - 1)]?.id;
  }

  // The session.

  async start(): Promise<void> {
    await this.#change("The session was not started", () => sessions.start(this.uuid));
  }

  async stop(): Promise<void> {
    await this.saveAll();
    await this.#change("The session was not stopped", () => sessions.stop(this.uuid));
  }

  /** Keeps the session running: the end that was announced does not come. */
  async extend(): Promise<void> {
    await this.#change("The session's end was not put off", () => sessions.extend(this.uuid));
  }

  async #change(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
      await this.loadSession();
    } catch (error) {
      toasts.fail(what, Problem.from(error));
    }
  }
}
