import { describe, expect, it } from "vitest";
import { FRAME_LIMIT, InputQueue, readable, UNACKED_LIMIT, WAITING_LIMIT, type InputFrame } from "../page/lib/input-queue";
import { firstEnter } from "../page/lib/save-gate";

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (frame: { bytes: Uint8Array } | undefined) => new TextDecoder().decode(frame?.bytes);

function takeAll(queue: InputQueue): InputFrame[] {
  const frames: InputFrame[] = [];
  for (let frame = queue.take(); frame; frame = queue.take()) frames.push(frame);
  return frames;
}

/** The agent's side: takes each byte once, whatever comes twice. */
class Shell {
  got = "";
  take(frame: InputFrame): void {
    expect(frame.seq, "no byte is left out").toBeLessThanOrEqual(this.got.length);
    this.got += text(frame).slice(this.got.length - frame.seq);
  }
}

describe("typed input", () => {
  it("waits for the terminal, then is numbered from where this viewer stopped", () => {
    const queue = new InputQueue();
    queue.push(bytes("ls"));
    expect(queue.take()).toBeUndefined();
    queue.resume("e1", 40);
    expect(queue.take()).toMatchObject({ seq: 40 });
  });

  it("is sent again after a cut, only what the shell does not have", () => {
    const queue = new InputQueue();
    queue.resume("e1", 0);
    queue.push(bytes("abc"));
    queue.push(bytes("def"));
    takeAll(queue);
    const resumed = queue.resume("e1", 4);
    expect("again" in resumed && resumed.again.map((f) => [f.seq, text(f)])).toEqual([[4, "ef"]]);
    queue.ack(6);
    expect(queue.isEmpty).toBe(true);
  });

  it("arrives exactly once however often the connection is cut", () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      let state = seed;
      const random = (n: number) => (state = (state * 48271) % 2147483647) % n;
      const queue = new InputQueue();
      const shell = new Shell();
      let typed = "";
      queue.resume("e", 0);
      for (let step = 0; step < 60; step += 1) {
        const keys = "k" + step;
        queue.push(bytes(keys));
        typed += keys;
        // A cut loses a frame and all that follow it; what arrived may be unacknowledged.
        const frames = takeAll(queue);
        const arrived = random(2) ? frames.length : random(frames.length + 1);
        for (const frame of frames.slice(0, arrived)) shell.take(frame);
        if (arrived === frames.length && random(3)) queue.ack(shell.got.length);
        else {
          const resumed = queue.resume("e", shell.got.length);
          if (!("again" in resumed)) throw new Error("lost within an epoch");
          for (const frame of resumed.again) shell.take(frame);
        }
      }
      const resumed = queue.resume("e", shell.got.length);
      if ("again" in resumed) for (const frame of resumed.again) shell.take(frame);
      expect(shell.got, `seed ${seed}`).toBe(typed);
    }
  });

  it("is never typed into another shell than it was meant for, and the page can say what was lost", () => {
    const queue = new InputQueue();
    queue.resume("e1", 0);
    queue.push(bytes("rm -r old\r"));
    queue.take();
    queue.push(bytes("ls\r"));
    const resumed = queue.resume("e2", 0);
    if (!("lost" in resumed)) throw new Error("not told");
    expect([readable(resumed.lost.unsure), readable(resumed.lost.waiting)]).toEqual(["rm -r old⏎", "ls⏎"]);
    expect(queue.take()).toBeUndefined();
    expect(queue.isEmpty).toBe(true);
  });

  it("keeps at most 64 KiB unacknowledged and lets the rest of a paste follow", () => {
    const queue = new InputQueue();
    queue.resume("e", 0);
    const paste = "x".repeat(100_000);
    expect(queue.push(bytes(paste))).toBe(true);
    const first = takeAll(queue);
    expect(first.every((f) => f.bytes.length <= FRAME_LIMIT)).toBe(true);
    expect(queue.unackedBytes).toBe(UNACKED_LIMIT);
    queue.ack(UNACKED_LIMIT);
    const sent = [...first, ...takeAll(queue)].map(text).join("");
    expect(sent).toBe(paste);
  });

  it("refuses a paste that is too large whole, never in part", () => {
    const queue = new InputQueue();
    expect(queue.push(new Uint8Array(WAITING_LIMIT + 1))).toBe(false);
    expect(queue.waitingBytes).toBe(0);
  });

  it("stops before Enter while a save is on its way and then names the save's revision", () => {
    const queue = new InputQueue();
    queue.resume("e", 0);
    queue.push(bytes("python3 main.py\r"));
    expect(text(queue.take(firstEnter))).toBe("python3 main.py");
    expect(queue.take(firstEnter)).toBeUndefined();
    expect(queue.take(undefined, 7)).toMatchObject({ seq: 15, afterRev: 7 });
  });
});
