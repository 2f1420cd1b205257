import { beforeEach, describe, expect, it } from "vitest";
import { Problem } from "../page/api/problem";
import type { Expect, Saved } from "../page/api/workspace";
import { apply, type Edit } from "../page/lib/diff";
import { SaveGate } from "../page/lib/save-gate";
import { Document, type Buffer, type Files } from "../page/state/document.svelte";

/** One file with the server's rules for revisions. */
class OneFile implements Files {
  rev = 1;
  content: string | undefined = "one\ntwo\nthree\nfour\n";
  down = false;
  saves = 0;
  /** All that was ever saved. */
  past: string[] = [];
  /** Set to make a save wait. */
  wait: Promise<void> | undefined;

  async read() {
    if (this.down) throw Problem.offline();
    if (this.content === undefined) throw new Problem(404, "not_found", "", "gone", "r");
    return { rev: this.rev, bytes: new TextEncoder().encode(this.content) };
  }

  async save(path: string, bytes: Uint8Array, expect: Expect): Promise<Saved> {
    await this.wait;
    if (this.down) throw Problem.offline();
    this.saves += 1;
    const stale = expect === "absent" ? this.content !== undefined : expect !== "anything" && expect.rev !== this.rev;
    if (stale) throw new Problem(409, "stale", "", "changed", "r");
    this.rev += 1;
    this.content = new TextDecoder().decode(bytes);
    this.past.push(this.content);
    return { path, rev: this.rev, hash: "", size: bytes.length };
  }

  /** Someone else writes. */
  write(content: string | undefined): number {
    this.content = content;
    return (this.rev += 1);
  }
}

class PlainBuffer implements Buffer {
  constructor(
    public value: string,
    private readonly doc: Document,
  ) {}
  text = () => this.value;
  apply(list: Edit[], undoable: boolean) {
    this.value = apply(this.value, list);
    if (undoable) this.doc.edited();
  }
  type(value: string) {
    this.value = value;
    this.doc.edited();
  }
  destroy = () => undefined;
}

let file: OneFile;
let gate: SaveGate;
let doc: Document;
const buffer = () => doc.buffer as PlainBuffer;

beforeEach(async () => {
  file = new OneFile();
  gate = new SaveGate();
  doc = new Document("main.py", { files: file, gate, makeBuffer: (d, text) => new PlainBuffer(text, d), sizeOf: () => 10 });
  await doc.open();
  return () => doc.close();
});

describe("an open file", () => {
  it("is saved under the revision it was read at, and commands know that revision", async () => {
    buffer().type("mine\n");
    expect(doc.dirty).toBe(true);
    expect(await doc.save()).toBe(true);
    expect([file.content, doc.dirty, gate.rev]).toEqual(["mine\n", false, 2]);
  });

  it("holds commands from the moment of Ctrl-S until the answer", async () => {
    let answer = () => undefined as void;
    file.wait = new Promise((resolve) => (answer = resolve));
    buffer().type("mine\n");
    const saving = doc.save();
    expect(gate.holdMs()).toBeGreaterThan(0);
    answer();
    await saving;
    expect(gate.holdMs()).toBe(0);
  });

  it("shows a change from the terminal, and can take it back", async () => {
    await doc.changedOutside(file.write("one\nTWO\nthree\nfour\n"), "pod");
    expect([buffer().value, doc.dirty]).toEqual(["one\nTWO\nthree\nfour\n", false]);
    expect(doc.outside?.before).toBe("one\ntwo\nthree\nfour\n");
    doc.undoOutside();
    await doc.save();
    expect(file.content).toBe("one\ntwo\nthree\nfour\n");
  });

  it("merges what both sides did to different lines, and saves the merge", async () => {
    buffer().type("ONE\ntwo\nthree\nfour\n");
    file.write("one\ntwo\nthree\nFOUR\n");
    expect(await doc.save()).toBe(true);
    expect(file.content).toBe("ONE\ntwo\nthree\nFOUR\n");
    expect(buffer().value).toBe(file.content);
  });

  it("asks when both sides changed the same line, and writes nothing meanwhile", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("one\ntheirs\nthree\nfour\n");
    expect(await doc.save()).toBe(false);
    expect([doc.conflict?.theirs?.text, buffer().value]).toEqual(["one\ntheirs\nthree\nfour\n", "one\nmine\nthree\nfour\n"]);
    expect(file.content).toBe("one\ntheirs\nthree\nfour\n");
  });

  it("keeps mine on request", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("one\ntheirs\nthree\nfour\n");
    await doc.save();
    expect(await doc.keepMine()).toBe(true);
    expect([file.content, doc.conflict]).toEqual(["one\nmine\nthree\nfour\n", undefined]);
  });

  it("takes theirs on request", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("one\ntheirs\nthree\nfour\n");
    await doc.save();
    expect(await doc.takeTheirs()).toBe(true);
    expect([buffer().value, doc.dirty, doc.conflict]).toEqual(["one\ntheirs\nthree\nfour\n", false, undefined]);
    expect(file.past).toEqual(["one\nmine\nthree\nfour\n", "one\ntheirs\nthree\nfour\n"]);
    buffer().type("one\ntheirs, then mine\nthree\nfour\n");
    expect(await doc.save()).toBe(true);
  });

  it("takes theirs also if it is no text, byte for byte, with mine in the history", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("a\0b");
    await doc.save();
    expect(await doc.takeTheirs()).toBe(true);
    expect([file.past, doc.phase, doc.dirty]).toEqual([["one\nmine\nthree\nfour\n", "a\0b"], "binary", false]);
  });

  it("writes nothing to take what is no text over text that nobody edited", async () => {
    await doc.changedOutside(file.write("a\0b"));
    expect(await doc.takeTheirs()).toBe(true);
    expect([file.past, doc.phase]).toEqual([[], "binary"]);
  });

  it("keeps the question and the text if mine cannot be kept in the history", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("one\ntheirs\nthree\nfour\n");
    await doc.save();
    file.down = true;
    expect(await doc.takeTheirs()).toBe(false);
    expect([doc.problem?.isOffline, doc.conflict?.theirs?.text]).toEqual([true, "one\ntheirs\nthree\nfour\n"]);
    expect([buffer().value, doc.dirty]).toEqual(["one\nmine\nthree\nfour\n", true]);
    file.down = false;
    expect(await doc.takeTheirs()).toBe(true);
    expect(file.content).toBe("one\ntheirs\nthree\nfour\n");
  });

  it("can take theirs when only the second of the two saves failed", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("one\ntheirs\nthree\nfour\n");
    await doc.save();
    const save = file.save.bind(file);
    file.save = async (...all) => {
      const saved = await save(...all);
      file.down = true;
      return saved;
    };
    expect(await doc.takeTheirs()).toBe(false);
    expect(file.content).toBe("one\nmine\nthree\nfour\n");
    Object.assign(file, { save, down: false });
    expect(await doc.takeTheirs()).toBe(true);
    expect([file.content, doc.problem]).toEqual(["one\ntheirs\nthree\nfour\n", undefined]);
  });

  it("asks about the newest text if theirs changed once more", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("one\ntheirs\nthree\nfour\n");
    await doc.save();
    file.write("one\nnewer\nthree\nfour\n");
    expect(await doc.takeTheirs()).toBe(false);
    expect([doc.conflict?.theirs?.text, buffer().value]).toEqual(["one\nnewer\nthree\nfour\n", "one\nmine\nthree\nfour\n"]);
  });

  it("keeps mine if theirs is gone by the time it is taken", async () => {
    buffer().type("one\nmine\nthree\nfour\n");
    file.write("one\ntheirs\nthree\nfour\n");
    await doc.save();
    file.write(undefined);
    expect(await doc.takeTheirs()).toBe(false);
    expect([doc.deleted, doc.conflict, doc.dirty, buffer().value]).toEqual([true, undefined, true, "one\nmine\nthree\nfour\n"]);
  });

  it("raises no conflict over its own save that comes back as news", async () => {
    buffer().type("mine 1\n");
    const saving = doc.save();
    const news = doc.changedOutside(2);
    buffer().type("mine 2\n");
    await Promise.all([saving, news]);
    expect([doc.conflict, doc.outside]).toEqual([undefined, undefined]);
    await doc.save();
    expect(file.content).toBe("mine 2\n");
  });

  it("keeps its text when it is deleted elsewhere, and can be restored", async () => {
    file.write(undefined);
    doc.deletedOutside();
    expect([doc.deleted, buffer().value]).toEqual([true, "one\ntwo\nthree\nfour\n"]);
    expect(await doc.restore()).toBe(true);
    expect([file.content, doc.deleted]).toEqual(["one\ntwo\nthree\nfour\n", false]);
  });

  it("keeps its text while the server is away, says so, and saves later", async () => {
    file.down = true;
    buffer().type("kept\n");
    expect(await doc.save()).toBe(false);
    expect([doc.dirty, doc.problem?.isOffline]).toEqual([true, true]);
    file.down = false;
    expect(await doc.save()).toBe(true);
    expect([file.content, doc.problem]).toEqual(["kept\n", undefined]);
  });

  it("does not write a file whose text is what the server has", async () => {
    buffer().type("x");
    buffer().type("one\ntwo\nthree\nfour\n");
    expect(await doc.save()).toBe(true);
    expect([file.saves, doc.dirty]).toEqual([0, false]);
  });

  it("that is not text is not opened as text", async () => {
    file.write("a\0b");
    const binary = new Document("a.bin", { files: file, gate, makeBuffer: () => buffer(), sizeOf: () => 3 });
    await binary.open();
    expect(binary.phase).toBe("binary");
  });

  it("that is large is opened only when asked for", async () => {
    const large = new Document("big", { files: file, gate, makeBuffer: (d, t) => new PlainBuffer(t, d), sizeOf: () => 1e9 });
    await large.open();
    expect(large.phase).toBe("large");
    await large.open(true);
    expect(large.phase).toBe("ready");
  });
});
