// What a new user does, in a real browser, against the real server.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, editorText, eventually, judge, open, screen, type, waitForScreen, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

test("create a session, type a command, see its answer", patience, () =>
  withPage({}, async ({ page }) => {
    const clicked = Date.now();
    await createSession(page, "first");
    assert.ok(Date.now() - clicked < 8000, `usable after ${Date.now() - clicked} ms`);
    await type(page, "echo $((6*7))");
    await waitForScreen(page, "\n42\n");
  }));

test("what is saved is what runs, and the editor follows the terminal", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "edit");
    await type(page, "echo 'print(0)' > main.py");
    await open(page, "main.py");
    for (let n = 1; n <= 5; n++) {
      await page.locator(".cm-content").click();
      await page.keyboard.press("Control+A");
      await page.keyboard.type(`print("answer", ${n} * 111)`);
      await page.keyboard.press("Control+S");
      await type(page, "python3 main.py");
      await waitForScreen(page, `answer ${n * 111}`);
    }
    await type(page, "sed -i s/answer/edited/ main.py");
    await eventually("the editor follows", async () => (await editorText(page)).includes('print("edited", 5 * 111)'));
    const saved = await (await server.api("GET", `/api/workspace/${id}/file/main.py`)).text();
    assert.ok(saved.startsWith('print("edited", 5 * 111)'), saved);
  }));

test("a reload brings back the terminal with its scrollback exactly once", patience, () =>
  withPage({}, async ({ page }) => {
    await createSession(page, "reload");
    await type(page, "kept=yes; for n in $(seq 1 200); do echo line-$n-; done");
    await waitForScreen(page, "line-200-");
    await page.reload();
    const seen = await waitForScreen(page, "line-200-");
    for (const n of [150, 199, 200]) assert.equal(seen.split(`line-${n}-\n`).length - 1, 1, `line ${n} in:\n${seen}`);
    await type(page, "echo kept=$kept");
    await waitForScreen(page, "\nkept=yes");
    const after = await screen(page);
    // What a terminal answers to queries in a replay would stand at the prompt.
    assert.doesNotMatch(after, /\[\?|;\d+R|rgb:/, after);
  }));

test("a killed and restarted server finds the page, its terminal and its program again", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    await createSession(page, "restart");
    await type(page, "kept=yes; cat > typed.txt");
    await waitForScreen(page, "cat > typed.txt");
    allowed.offline = true;
    await server.kill();
    await page.getByText(/disconnected/i).first().waitFor();
    await server.start();
    await eventually("connected again", async () => (await page.locator("footer").textContent()).includes("Connected"));
    allowed.offline = false;
    await type(page, "a line for the program");
    await page.keyboard.press("Control+D");
    await type(page, "cat typed.txt; echo kept=$kept");
    await waitForScreen(page, /\na line for the program\n(ready> .*\n)*.*a line for the program\nkept=yes/);
  }));

test("a session that is stopped and started keeps its files", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "stopped");
    await type(page, "echo kept > kept.txt");
    await page.getByRole("treeitem", { name: /kept\.txt/ }).waitFor();
    await page.goto(server.base);
    await page.getByRole("button", { name: "Stop stopped" }).click();
    const state = async (wanted) => eventually(wanted, async () => (await server.sessions()).find((s) => s.uuid === id).state === wanted);
    await state("stopped");
    await page.getByRole("button", { name: "Start stopped" }).click();
    await state("running");
    await page.getByRole("link", { name: "stopped" }).click();
    await waitForScreen(page, "ready> ");
    await type(page, "cat kept.txt");
    await waitForScreen(page, "\nkept\n");
  }));

test("a real project unpacks and runs, and all of it is in the tree", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "project");
    const folder = mkdtempSync(join(tmpdir(), "berth-project-"));
    try {
      mkdirSync(join(folder, "project/tests"), { recursive: true });
      const files = 800;
      for (let n = 0; n < files; n++) {
        mkdirSync(join(folder, `project/pkg/m${n % 20}`), { recursive: true });
        writeFileSync(join(folder, `project/pkg/m${n % 20}/f${n}.py`), `VALUE = ${n}\n`.repeat(20));
      }
      writeFileSync(join(folder, "project/tests/test_all.py"), "import unittest\nclass T(unittest.TestCase):\n  def test(self):\n    self.assertEqual(6*7, 42)\n");
      execFileSync("tar", ["czf", join(folder, "project.tar.gz"), "-C", folder, "project"]);
      const { readFileSync } = await import("node:fs");
      await server.api("PUT", `/api/workspace/${id}/file/project.tar.gz`, readFileSync(join(folder, "project.tar.gz")));
      await type(page, "until tar xzf project.tar.gz; do sleep 0.1; done; cd project && python3 -m unittest discover tests");
      await waitForScreen(page, "OK");
      await eventually("all files are in the database", async () => {
        const tree = await (await server.api("GET", `/api/workspace/${id}/tree`)).json();
        return tree.items.filter((i) => i.kind === "file").length === files + 2;
      });
      await page.getByRole("treeitem", { name: /^project$|project, folder|project/ }).first().click();
      await page.getByRole("treeitem", { name: /pkg/ }).waitFor();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }));

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
    assert.deepEqual(await judge(page), []);
  }));
