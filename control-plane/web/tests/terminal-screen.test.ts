import { Terminal } from "@xterm/xterm";
import { expect, it } from "vitest";

// What a connection relies on to reset a screen between older and newer output.
it("xterm calls back between what was written before and after, also for no bytes", async () => {
  const terminal = new Terminal({ allowProposedApi: true, cols: 40, rows: 5 });
  const line = (n: number) => terminal.buffer.active.getLine(n)?.translateToString(true);
  for (let n = 0; n < 100; n += 1) terminal.write(`stale \u001b[?1049h${"x".repeat(1000)}`);
  terminal.write(new Uint8Array(), () => {
    terminal.reset();
    terminal.resize(60, 6);
  });
  await new Promise<void>((resolve) => terminal.write(new TextEncoder().encode("fresh"), resolve));
  expect([terminal.buffer.active.type, line(0), line(1), terminal.cols]).toEqual(["normal", "fresh", "", 60]);
});
