import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { signedIn, signedOut } from "../page/api/presence";
import type { NotSent } from "../page/lib/input-queue";
import { SaveGate } from "../page/lib/save-gate";
import { TerminalConnection, type Ended, type Screen } from "../page/terminal/connection";

/** A socket that the test opens, speaks on and cuts. */
class FakeSocket {
  static readonly OPEN = 1;
  static all: FakeSocket[] = [];
  static get last() {
    return FakeSocket.all.at(-1) as FakeSocket;
  }
  readyState = 0;
  sent: Record<string, unknown>[] = [];
  closedWith: number | undefined;
  onopen = () => undefined as void;
  onmessage = (_: { data: string }) => undefined as void;
  onclose = (_: { code: number; reason: string }) => undefined as void;

  constructor() {
    FakeSocket.all.push(this);
  }
  typed: string[] = [];
  send(frame: string | ArrayBuffer) {
    if (typeof frame === "string") this.sent.push(JSON.parse(frame));
    else this.typed.push(new TextDecoder().decode(frame.slice(17)));
  }
  close(code: number) {
    this.closedWith = code;
    this.readyState = 3;
  }
  open() {
    this.readyState = 1;
    this.onopen();
  }
  say(message: object) {
    this.onmessage({ data: JSON.stringify(message) });
  }
  cut(code = 1006) {
    this.readyState = 3;
    this.onclose({ code, reason: "" });
  }
  of(type: string) {
    return this.sent.filter((frame) => frame["type"] === type);
  }
}

/** Paints at once, and notes what it painted and whether answers were admitted meanwhile. */
class PlainScreen implements Screen {
  painted = "";
  answers: boolean[] = [];
  connection: TerminalConnection | undefined;
  size = () => ({ cols: 80, rows: 24 });
  write(bytes: Uint8Array, parsed: () => void) {
    const text = new TextDecoder().decode(bytes);
    this.painted += text;
    for (const _ of text.matchAll(/\?/g)) this.answers.push(this.connection?.gate.admits() ?? false);
    parsed();
  }
  reset() {
    this.painted = "";
  }
  resize = () => undefined;
}

let screen: PlainScreen;
let connection: TerminalConnection;
let ended: Ended | undefined;
let lost: NotSent | undefined;

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
  vi.stubGlobal("WebSocket", FakeSocket);
  vi.stubGlobal("location", { protocol: "http:", host: "here" });
  vi.stubGlobal("addEventListener", () => undefined);
  vi.stubGlobal("removeEventListener", () => undefined);
  screen = new PlainScreen();
  ended = lost = undefined;
  connection = new TerminalConnection("/t", "viewer", screen, new SaveGate(), {
    link: () => undefined,
    ready: () => undefined,
    exited: (how) => (ended = how),
    notSent: (what) => (lost = what),
    notice: () => undefined,
  });
  screen.connection = connection;
});

afterEach(() => {
  connection.close();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const hello = (offset: number) => ({ type: "hello", terminal: "t", epoch: 7, input_seq: 0, offset });

function attach(data: string) {
  FakeSocket.last.open();
  FakeSocket.last.say(hello(data.length));
  FakeSocket.last.say({ type: "snapshot", offset: data.length, cols: 80, rows: 24, data });
}

describe("a hidden terminal", () => {
  it("says so, and says when it is looked at again", () => {
    attach("$ ");
    connection.look(false);
    connection.look(false);
    connection.look(true);
    expect(FakeSocket.last.of("visible")).toEqual([
      { type: "visible", visible: false },
      { type: "visible", visible: true },
    ]);
  });

  it("says so when it is attached while hidden", () => {
    connection.look(false);
    attach("$ ");
    expect(FakeSocket.last.of("visible")).toEqual([{ type: "visible", visible: false }]);
  });

  it("answers no query of what it missed, and each one after it", () => {
    attach("$ ");
    FakeSocket.last.say({ type: "output", offset: 2, data: "live?" });
    connection.look(false);
    connection.look(true);
    FakeSocket.last.say(hello(14));
    // One frame holds the end of what was missed and the beginning of what is live.
    FakeSocket.last.say({ type: "output", offset: 7, data: "missed?live?" });
    expect(screen.painted).toBe("$ live?missed?live?");
    expect(screen.answers).toEqual([true, false, true]);
  });

  it("stays away after a cut until it is looked at", () => {
    attach("$ ");
    connection.look(false);
    FakeSocket.last.cut();
    vi.advanceTimersByTime(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
    connection.look(true);
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("comes back by itself while typed keys wait", () => {
    attach("$ ");
    connection.type(new TextEncoder().encode("make\r"));
    connection.look(false);
    FakeSocket.last.cut();
    vi.advanceTimersByTime(60_000);
    expect(FakeSocket.all.length).toBeGreaterThan(1);
  });

  it("shows the last output of a program that ended meanwhile", () => {
    attach("$ ");
    connection.look(false);
    FakeSocket.last.say({ type: "exit", code: 0, signal: null });
    expect(ended).toEqual({ code: 0, signal: null });
    expect(FakeSocket.last.closedWith).toBeUndefined();
    connection.look(true);
    FakeSocket.last.say(hello(6));
    FakeSocket.last.say({ type: "output", offset: 2, data: "done" });
    expect(screen.painted).toBe("$ done");
    expect(FakeSocket.last.closedWith).toBe(1000);
  });
});

describe("a terminal whose viewer's sign-in ends", () => {
  it("says so, loses no key, and comes back once somebody is signed in again", () => {
    attach("$ ");
    const told = vi.fn();
    const stop = signedOut.on(told);
    FakeSocket.last.cut(4401);
    expect(told).toHaveBeenCalledOnce();
    connection.type(new TextEncoder().encode("make"));
    vi.advanceTimersByTime(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
    signedIn.tell();
    expect(FakeSocket.all).toHaveLength(2);
    FakeSocket.last.open();
    FakeSocket.last.say(hello(2));
    expect([FakeSocket.last.typed, lost]).toEqual([["make"], undefined]);
    stop();
  });

  it("stays away if it was closed meanwhile", () => {
    attach("$ ");
    FakeSocket.last.cut(4401);
    connection.close();
    signedIn.tell();
    expect(FakeSocket.all).toHaveLength(1);
  });
});

/** Parses what it is given only when the test says so. */
class LateScreen extends PlainScreen {
  resizes: string[] = [];
  #queued: (() => void)[] = [];
  override write(bytes: Uint8Array, parsed: () => void) {
    this.#queued.push(() => super.write(bytes, parsed));
  }
  override resize = () => void this.resizes.push(this.painted);
  parse() {
    for (const step of this.#queued.splice(0)) step();
  }
}

describe("a screen that still has output to parse", () => {
  let late: LateScreen;
  beforeEach(() => {
    connection.close();
    late = new LateScreen();
    connection = new TerminalConnection("/t", "viewer", late, new SaveGate(), {
      link: () => undefined,
      ready: () => undefined,
      exited: () => undefined,
      notSent: () => undefined,
      notice: () => undefined,
    });
    attach("$ ");
    late.parse();
    FakeSocket.last.say({ type: "output", offset: 2, data: "stale" });
  });

  it("paints none of it over a snapshot that came later", () => {
    FakeSocket.last.say({ type: "snapshot", offset: 20, cols: 80, rows: 24, data: "fresh" });
    FakeSocket.last.say({ type: "output", offset: 20, data: ", more" });
    late.parse();
    expect(late.painted).toBe("fresh, more");
  });

  it("takes a new size after what was written for the old one", () => {
    FakeSocket.last.say({ type: "resized", cols: 100, rows: 30 });
    FakeSocket.last.say({ type: "output", offset: 7, data: " wide" });
    late.parse();
    expect([late.resizes, late.painted]).toEqual([["$ stale"], "$ stale wide"]);
  });

  it("is left alone once it is closed", () => {
    FakeSocket.last.say({ type: "snapshot", offset: 20, cols: 80, rows: 24, data: "" });
    connection.close();
    late.parse();
    expect(late.painted).toContain("stale");
  });
});
