import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SAVE_MS, Unsaved, type Losable } from "../page/state/unsaved.svelte";

/** Edited text whose save the test decides. */
class Edited implements Losable {
  dirty = true;
  saves = 0;
  constructor(private readonly answer: (doc: Edited) => Promise<boolean> | boolean) {}
  async save() {
    this.saves += 1;
    return this.answer(this);
  }
}

const saved = (doc: Edited) => !(doc.dirty = false);
const refused = () => false;
const silent = () => new Promise<boolean>(() => undefined);

let unsaved: Unsaved<Edited>;
/** What was decided of documents, once it is. */
function wish(...documents: Edited[]) {
  const wished: { letGo?: boolean } = {};
  void unsaved.mayLetGo(documents).then((letGo) => (wished.letGo = letGo));
  return wished;
}
const settle = () => vi.advanceTimersByTimeAsync(0);

beforeEach(() => {
  vi.useFakeTimers();
  unsaved = new Unsaved();
});
afterEach(() => void vi.useRealTimers());

describe("text that is about to be closed", () => {
  it("is saved, and then nobody is asked", async () => {
    const doc = new Edited(saved);
    const wished = wish(doc);
    await settle();
    expect([wished.letGo, doc.saves, unsaved.asked]).toEqual([true, 1, undefined]);
  });

  it("is saved again if something was typed meanwhile", async () => {
    const doc = new Edited((d) => (d.dirty = d.saves < 2) || true);
    const wished = wish(doc);
    await settle();
    expect([wished.letGo, doc.saves]).toEqual([true, 2]);
  });

  it("is asked about if it cannot be saved, and only that", async () => {
    const [good, bad] = [new Edited(saved), new Edited(refused)];
    const wished = wish(good, bad);
    await settle();
    expect([wished.letGo, unsaved.asked]).toEqual([undefined, [bad]]);
    unsaved.answer(true);
    await settle();
    expect([wished.letGo, unsaved.asked]).toEqual([true, undefined]);
  });

  it("stays if a person says so", async () => {
    const wished = wish(new Edited(refused));
    await settle();
    unsaved.answer(false);
    await settle();
    expect(wished.letGo).toBe(false);
  });

  it("is asked about after a while without an answer to its save", async () => {
    const doc = new Edited(silent);
    wish(doc);
    await vi.advanceTimersByTimeAsync(SAVE_MS - 1);
    expect(unsaved.asked).toBeUndefined();
    await vi.advanceTimersByTimeAsync(1);
    expect(unsaved.asked).toEqual([doc]);
  });

  it("stays if something else is wanted before the answer", async () => {
    const first = wish(new Edited(refused));
    await settle();
    const other = new Edited(refused);
    const second = wish(other);
    await settle();
    expect([first.letGo, unsaved.asked]).toEqual([false, [other]]);
    unsaved.answer(true);
    await settle();
    expect(second.letGo).toBe(true);
  });
});
