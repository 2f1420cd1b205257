// xterm.js as a terminal's screen, and as the source of what the user types.

import { ClipboardAddon, type IClipboardProvider } from "@xterm/addon-clipboard";
import { FitAddon } from "@xterm/addon-fit";
import { UnicodeGraphemesAddon } from "@xterm/addon-unicode-graphemes";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import type { ReplayGate } from "../lib/replay-gate";
import type { Screen } from "./connection";
import { lightScheme, terminalTheme } from "./theme";

/** Lines kept above the screen. */
const SCROLLBACK = 5_000;

/** The part of xterm that tells a person's input from its own answers; pinned with its version. */
interface Insides {
  _core?: { coreService?: { onUserInput?: (listener: () => void) => void } };
}

/** The clipboard as programs may use it: they can fill it, and never read what the person has in it. */
const onlyWritten: IClipboardProvider = {
  readText: () => "",
  writeText: (_, text) => navigator.clipboard?.writeText(text).catch(() => undefined),
};

export class XtermScreen implements Screen {
  readonly terminal: Terminal;
  #fit = new FitAddon();
  #stop: (() => void)[] = [];

  constructor(host: HTMLElement) {
    this.terminal = new Terminal({
      allowProposedApi: true,
      cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
      fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, monospace',
      fontSize: 13,
      lineHeight: 1.2,
      minimumContrastRatio: 4.5,
      scrollback: SCROLLBACK,
      theme: terminalTheme(),
    });
    this.terminal.loadAddon(this.#fit);
    this.terminal.loadAddon(new UnicodeGraphemesAddon());
    this.terminal.loadAddon(new ClipboardAddon(undefined, onlyWritten));
    this.terminal.loadAddon(new WebLinksAddon((_, url) => void window.open(url, "_blank", "noopener,noreferrer")));
    this.terminal.open(host);
    // What a screen holds beyond the rows in sight can be read from here, by tests and by a person at the console.
    Object.assign(host, { xterm: this.terminal });
    this.terminal.attachCustomKeyEventHandler((event) => this.#pageKeys(event));
    const recolour = () => (this.terminal.options.theme = terminalTheme());
    lightScheme.addEventListener("change", recolour);
    this.#stop.push(() => lightScheme.removeEventListener("change", recolour));
    this.fit();
  }

  /** Calls back with what is to be typed into the shell: keys always, xterm's own answers as the gate admits. */
  onInput(gate: ReplayGate, typed: (bytes: Uint8Array<ArrayBuffer>) => void): void {
    const core = (this.terminal as unknown as Insides)._core?.coreService;
    if (!core?.onUserInput) throw new Error("xterm.js has changed inside: input cannot be told from answers");
    core.onUserInput(() => gate.personActed());
    const encoder = new TextEncoder();
    this.terminal.onData((data) => {
      if (gate.admits()) typed(encoder.encode(data));
    });
    // Mouse reports in the old encoding: bytes, and always a person's.
    this.terminal.onBinary((data) => typed(Uint8Array.from(data, (c) => c.charCodeAt(0))));
  }

  size() {
    return { cols: this.terminal.cols, rows: this.terminal.rows };
  }

  /** The size that fills the pane now; undefined while it is hidden. */
  fit(): { cols: number; rows: number } | undefined {
    const size = this.#fit.proposeDimensions();
    if (!size || !Number.isFinite(size.cols) || !Number.isFinite(size.rows)) return undefined;
    const fitting = { cols: Math.max(20, size.cols), rows: Math.max(2, size.rows) };
    this.resize(fitting.cols, fitting.rows);
    return fitting;
  }

  write(bytes: Uint8Array, parsed: () => void): void {
    this.terminal.write(bytes, parsed);
  }

  reset(cols: number, rows: number): void {
    this.terminal.reset();
    this.resize(cols, rows);
  }

  resize(cols: number, rows: number): void {
    if (cols !== this.terminal.cols || rows !== this.terminal.rows) this.terminal.resize(cols, rows);
  }

  dispose(): void {
    for (const stop of this.#stop) stop();
    this.terminal.dispose();
  }

  /**
   * Ctrl-C copies when something is selected; Ctrl-Shift-C and -V copy and paste. Ctrl-S at a prompt saves the open
   * file and goes no further: a shell would take it to freeze its output. Full-screen programs get it.
   */
  #pageKeys(event: KeyboardEvent): boolean {
    if (event.type !== "keydown" || !event.ctrlKey || event.altKey || event.metaKey) return true;
    const key = event.key.toLowerCase();
    if (key === "c" && this.terminal.hasSelection()) {
      void navigator.clipboard?.writeText(this.terminal.getSelection());
      this.terminal.clearSelection();
      event.preventDefault();
      return false;
    }
    if (key === "c" && event.shiftKey) {
      event.preventDefault();
      return false;
    }
    if (key === "s" && !event.shiftKey && this.terminal.buffer.active.type === "normal") return false;
    // The browser pastes by itself: xterm hears its paste event.
    if (key === "v" && event.shiftKey) return false;
    return true;
  }
}
