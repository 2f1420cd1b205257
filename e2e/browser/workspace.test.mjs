// What a new user does, in a real browser, against the real server.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, editorText, eventually, open, type, waitForScreen, withPage } from "./harness.mjs";

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
