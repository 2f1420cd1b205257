// The page over a slow link: 120 ms each way, 150 kB a second.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, editorText, eventually, focusTerminal, onDisk, open, type, waitForScreen, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };
const slow = { delayMs: 120, bytesPerSecond: 150_000 };

test("over a slow link what is saved is what runs, a flood is stopped at once, and edits of both sides meet", patience, () =>
  withPage({ slow }, async ({ page, server }) => {
    const id = await createSession(page, "slow");
    await type(page, "echo 'print(0)' > main.py");
    await open(page, "main.py");
    await page.locator(".cm-content").click();
    await page.keyboard.press("Control+A");
    await page.keyboard.type('print("answer", 6 * 7)');
    await page.keyboard.press("Control+S");
    await type(page, "python3 main.py");
    await waitForScreen(page, "answer 42");

    await type(page, "yes 'a flood of many long lines, far more than the link takes'");
    await waitForScreen(page, "a flood of many long lines, far more than the link takes\na flood");
    await focusTerminal(page);
    const pressed = Date.now();
    await page.keyboard.press("Control+C");
    await waitForScreen(page, /\^C[^\n]*\nready> \s*$/);
    // What is on its way at most, 128 KiB, takes the link nearly a second; all that `yes` writes would take it for ever.
    // The rest is for a machine that does much else.
    assert.ok(Date.now() - pressed < 8_000, `${Date.now() - pressed} ms`);

    // Typed while the terminal's change is on its way here.
    await server.api("PUT", `/api/workspace/${id}/file/notes.txt`, "one\ntwo\nthree\nfour\n");
    await open(page, "notes.txt");
    await eventually("its text", async () => (await editorText(page)) === "one\ntwo\nthree\nfour\n");
    await onDisk(join(server.appOf(id), "notes.txt"));
    await type(page, "sed -i 's/^one$/ONE/' notes.txt");
    await page.locator(".cm-line", { hasText: "four" }).click();
    await page.keyboard.press("End");
    await page.keyboard.type(" more");
    const both = "ONE\ntwo\nthree\nfour more\n";
    await eventually("the editor has both", async () => (await editorText(page)) === both);
    await onDisk(join(server.appOf(id), "notes.txt"), (bytes) => String(bytes) === both);
  }));
