import { describe, expect, it } from "vitest";
import { Backoff, FIRST_MS, LONGEST_MS } from "../page/lib/backoff";
import { ACK_EVERY, OutputAck } from "../page/lib/output-ack";
import { ReplayGate } from "../page/lib/replay-gate";
import { HOLD_MS, SaveGate } from "../page/lib/save-gate";
import { inputFrame, read, whyClosed } from "../page/lib/terminal-protocol";

describe("output acknowledgements", () => {
  it("go out for each 16 KiB parsed, and for the rest when nothing more comes", () => {
    const ack = new OutputAck();
    ack.startAt(1000);
    expect(ack.parse(1000 + ACK_EVERY - 1)).toBeUndefined();
    expect(ack.parse(1000 + ACK_EVERY)).toBe(1000 + ACK_EVERY);
    ack.parse(1000 + ACK_EVERY + 5);
    expect(ack.flush()).toBe(1000 + ACK_EVERY + 5);
    expect(ack.flush()).toBeUndefined();
  });

  it("paint no byte twice and notice a missing one", () => {
    const ack = new OutputAck();
    ack.startAt(100);
    expect(ack.receive(90, 20)).toBe(10);
    expect(ack.received).toBe(110);
    expect(ack.receive(120, 5)).toBe(-1);
  });
});

describe("during a replay", () => {
  it("xterm's answers are dropped and a person's keys pass", () => {
    const gate = new ReplayGate();
    gate.begin(500);
    expect(gate.admits()).toBe(false);
    gate.personActed();
    expect(gate.admits()).toBe(true);
    expect(gate.admits()).toBe(false);
  });

  it("answers are due again once the last replayed byte is parsed", () => {
    const gate = new ReplayGate();
    gate.begin(500);
    gate.parsed(499);
    expect(gate.admits()).toBe(false);
    gate.parsed(500);
    expect(gate.admits()).toBe(true);
  });
});

describe("save, then run", () => {
  it("holds while a save is on its way and remembers the highest revision", () => {
    let now = 0;
    const gate = new SaveGate(() => now);
    const first = gate.begin();
    const second = gate.begin();
    expect(gate.holdMs()).toBe(HOLD_MS);
    gate.settle(second, 9);
    expect(gate.holdMs()).toBe(HOLD_MS);
    gate.settle(first, 8);
    expect([gate.holdMs(), gate.rev]).toEqual([0, 9]);
  });

  it("lets go after two seconds without an answer, and at once when the save failed", () => {
    let now = 0;
    const gate = new SaveGate(() => now);
    let woken = 0;
    gate.onSettle(() => (woken += 1));
    gate.begin();
    now = HOLD_MS;
    expect(gate.holdMs()).toBe(0);
    const failing = gate.begin();
    gate.settle(failing);
    expect([gate.holdMs(), gate.rev, woken]).toEqual([0, 0, 1]);
  });
});

describe("backoff", () => {
  it("doubles its ceiling up to ten seconds and begins anew after a good connection", () => {
    const backoff = new Backoff(() => 0.999999);
    const waits = Array.from({ length: 8 }, () => backoff.next());
    expect(waits[0]).toBe(FIRST_MS);
    expect(waits.at(-1)).toBe(LONGEST_MS);
    backoff.reset();
    expect(backoff.next()).toBe(FIRST_MS);
  });
});

describe("frames", () => {
  it("carry input as 0x02, sequence, revision, bytes", () => {
    const frame = inputFrame({ seq: 258, afterRev: 3, bytes: new Uint8Array([104, 105]) });
    expect([...new Uint8Array(frame)]).toEqual([2, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 104, 105]);
  });

  it("carry output binary, as text, or as base64", () => {
    const binary = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0, 7, 255, 0]).buffer;
    expect(read(binary)).toMatchObject({ message: { offset: 7 } });
    expect([...(read(binary)?.bytes ?? [])]).toEqual([255, 0]);
    expect([...(read('{"type":"output","offset":1,"data":"é"}')?.bytes ?? [])]).toEqual([0xc3, 0xa9]);
    expect([...(read('{"type":"output","offset":1,"base64":"/wA="}')?.bytes ?? [])]).toEqual([255, 0]);
  });

  it("that are nonsense are left out", () => {
    expect(read("{")).toBeUndefined();
    expect(read("null")).toBeUndefined();
    expect(read(new Uint8Array([9, 9]).buffer)).toBeUndefined();
  });

  it("of a close tell whether trying again can help", () => {
    expect([4401, 4403, 4404, 4409].map((code) => whyClosed(code, "").retry)).toEqual([false, false, false, false]);
    expect([1006, 4429, 4503].map((code) => whyClosed(code, "").retry)).toEqual([true, true, true]);
  });
});
