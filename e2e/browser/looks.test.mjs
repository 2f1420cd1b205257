// How every page and state looks and reads: accessible in both schemes, and on a small touch screen.

import assert from "node:assert/strict";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, eventually, judge, onDisk, open, type, waitForScreen, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

for (const scheme of ["dark", "light"]) {
  test(`every page is accessible, ${scheme}`, patience, () =>
    withPage({ colorScheme: scheme, reducedMotion: "reduce" }, async ({ page, server }) => {
      assert.deepEqual(await judge(page), [], "no session yet");
      const id = await createSession(page, "greetings");
      const source = 'def greet(name: str) -> str:\n    """Say hello."""\n    return f"Hello, {name}!"\n\n\nif __name__ == "__main__":\n    for name in ("Ada", "Grace", "Linus"):\n        print(greet(name))\n';
      await server.api("PUT", `/api/workspace/${id}/file/main.py`, source);
      await server.api("PUT", `/api/workspace/${id}/file/README.md`, "# Greetings\n");
      await server.api("PUT", `/api/workspace/${id}/file/tests/test_greet.py`, "import main\n");
      await open(page, "main.py");
      await type(page, "python3 main.py");
      await waitForScreen(page, "Hello, Linus!");
      if (scheme === "dark" && process.env.BERTH_UPDATE_SCREENSHOT) {
        const path = new URL("../screenshots/workspace.png", import.meta.url).pathname;
        mkdirSync(new URL("../screenshots", import.meta.url), { recursive: true });
        await page.screenshot({ path });
      }
      assert.deepEqual(await judge(page), [], "the workspace");
      await page.goto(server.base);
      await page.getByRole("link", { name: "greetings" }).waitFor();
      assert.deepEqual(await judge(page), [], "the list of sessions");
    }));
}

/** Judges what is shown in both schemes and with forced colours. */
async function judgeAll(page, state) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    assert.deepEqual(await judge(page), [], `${state}, ${colorScheme}`);
  }
  await page.emulateMedia({ forcedColors: "active" });
  // The colours are the person's own then, and the browser's to keep apart.
  assert.deepEqual(await judge(page, ["color-contrast"]), [], `${state}, forced colours`);
  await page.emulateMedia({ forcedColors: "none" });
}

test("every state is accessible in each scheme: questions, history, conflicts, problems, no connection", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    const id = await createSession(page, "states");
    const put = (path, text) => server.api("PUT", `/api/workspace/${id}/file/${path}`, text);
    await put("main.py", "one\ntwo\n");
    await put("main.py", "one\nzwei\n");
    await server.json("POST", `/api/workspace/${id}/batch`, { ops: Array.from({ length: 12 }, (_, n) => ({ op: "write", path: `src/f${n}`, data: `${n}` })) });
    await open(page, "main.py");
    await type(page, "mkfifo src/pipe outside");
    await page.getByRole("button", { name: "2 problems" }).click();
    await page.getByRole("region", { name: "Conflicts and problems" }).waitFor();
    await judgeAll(page, "problems");

    await page.getByRole("button", { name: "History of main.py" }).click();
    await page.getByRole("button", { name: "Compare with now" }).first().waitFor();
    await judgeAll(page, "history of a file");
    await page.getByRole("button", { name: "Compare with now" }).first().click();
    await page.locator(".cm-mergeView").waitFor();
    await judgeAll(page, "two versions compared");
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "History of all files" }).click();
    await page.getByRole("button", { name: "Restore to here" }).first().waitFor();
    await judgeAll(page, "history of all files");

    await page.getByRole("treeitem", { name: "main.py" }).click({ button: "right" });
    await page.getByRole("menuitem", { name: "Rename" }).waitFor();
    await judgeAll(page, "menu");
    await page.keyboard.press("Escape");
    await page.getByRole("treeitem", { name: "main.py" }).focus();
    await page.keyboard.press("Delete");
    await page.getByRole("dialog").waitFor();
    await judgeAll(page, "question");
    await page.keyboard.press("Escape");

    await onDisk(join(server.appOf(id), "main.py"), (bytes) => String(bytes) === "one\nzwei\n");
    await server.whileAgentStands(id, async () => {
      writeFileSync(join(server.appOf(id), "main.py"), "one\nTWO\n");
      await put("main.py", "one\nduo\n");
    });
    await page.getByText("was changed here and in the terminal").waitFor();
    await judgeAll(page, "conflict");

    await server.restarted(id, () => rmSync(join(server.appOf(id), "src"), { recursive: true }));
    await page.getByRole("button", { name: "Put back" }).waitFor();
    await judgeAll(page, "held delete");

    allowed.offline = true;
    await server.kill();
    await page.getByText(/disconnected/i).first().waitFor();
    await judgeAll(page, "no connection");
    await server.start();
    await eventually("connected again", async () => (await page.locator("footer").textContent()).includes("Connected"));
    allowed.offline = false;

    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByText("Stopped").first().waitFor();
    await judgeAll(page, "stopped");
  }));

test("a long transfer shows how far it is, and goes when it is done", patience, () =>
  withPage({}, async ({ page }) => {
    let say;
    await page.routeWebSocket(/\/events$/, (socket) => {
      socket.connectToServer();
      say = (event) => socket.send(JSON.stringify(event));
    });
    await createSession(page, "transfer");
    await page.locator("footer").getByText("In sync").waitFor();
    const sync = { type: "sync", rev_in_pod: 1, state: "catching-up", problems: 0 };
    say({ ...sync, transfer: { to: "pod", done: 50_000_000, total: 200_000_000 } });
    const bar = page.getByRole("progressbar", { name: "Files to the session" });
    await bar.waitFor();
    await page.locator("footer").getByText("25 %").waitFor();
    await page.locator("footer").getByText("of 200.0 MB to the session").waitFor();
    assert.deepEqual(await judge(page), []);
    say({ ...sync, state: "live", transfer: null });
    await bar.waitFor({ state: "detached" });
  }));

test("at 200 % everything is in reach, without scrolling sideways", patience, () =>
  withPage({ viewport: { width: 640, height: 400 }, deviceScaleFactor: 2 }, async ({ page, server }) => {
    const id = await createSession(page, "zoom");
    await server.api("PUT", `/api/workspace/${id}/file/main.py`, "1\n");
    await page.getByRole("button", { name: "Files", exact: true }).click();
    await open(page, "main.py");
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "no sideways scrolling");
    assert.deepEqual(await judge(page), []);
  }));

test("a small touch screen has one pane at a time, without scrolling sideways", patience, () =>
  withPage({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true }, async ({ page, server }) => {
    await page.getByRole("button", { name: "New session" }).tap();
    await page.getByLabel("Name", { exact: true }).fill("phone");
    await page.getByRole("button", { name: "Create", exact: true }).tap();
    await page.waitForURL(/[0-9a-f]{8}-/);
    await eventually("it runs", async () => (await server.sessions())[0]?.state === "running");
    await page.getByRole("button", { name: /terminal/i }).first().tap();
    await waitForScreen(page, "ready> ");
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "no sideways scrolling");
    assert.deepEqual(await judge(page), [], "terminal");

    // A day's work with a thumb: a new file, its text, its history.
    await page.getByRole("button", { name: "Files", exact: true }).tap();
    await page.getByRole("button", { name: "New file" }).first().tap();
    await page.keyboard.insertText("note.txt");
    await page.keyboard.press("Enter");
    await page.locator(".cm-content").tap();
    await page.keyboard.insertText("written with a thumb");
    const id = (await server.sessions())[0].uuid;
    await eventually("it is saved by itself", async () => (await server.text(id, "note.txt")) === "written with a thumb");
    assert.deepEqual(await judge(page), [], "editor");
    await page.getByRole("button", { name: "History of note.txt" }).tap();
    const versions = page.getByRole("region", { name: "Versions of note.txt" });
    await versions.getByRole("button", { name: "Restore" }).last().tap();
    await eventually("it is restored", async () => (await server.text(id, "note.txt")) === "");
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "no sideways scrolling in the history");
    assert.deepEqual(await judge(page), [], "history");
    await page.getByRole("button", { name: "Close History" }).tap();
    await page.getByRole("button", { name: "Files", exact: true }).tap();
    const note = page.getByRole("treeitem", { name: "note.txt" });
    await note.waitFor();
    assert.deepEqual(await judge(page), [], "files");
    await note.tap();
    await page.locator(".cm-content").waitFor();
    assert.ok(!(await note.isVisible()), "a file that is open already comes to the front");
  }));
