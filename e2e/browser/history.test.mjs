// The history on the page: what files were, and the ways back.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, editorText, eventually, onDisk, open, type, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

const put = (server, id, path, text) => server.api("PUT", `/api/workspace/${id}/file/${path}`, text);
const holds = (text) => (bytes) => bytes.toString() === text;
const toast = (page, text) => page.locator(".toast", { hasText: text });

test("versions of a file tell who, from where and when, can be seen, compared and restored, and that can be undone", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "versions");
    const file = join(server.appOf(id), "main.py");
    await put(server, id, "main.py", "first\n");
    await onDisk(file, holds("first\n"));
    await type(page, "echo second > main.py");
    await eventually("it is committed", async () => (await server.text(id, "main.py")) === "second\n");
    await open(page, "main.py");
    await page.locator(".cm-content").click();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("third");
    await page.keyboard.press("Control+S");
    await onDisk(file, holds("third"));

    await page.getByRole("button", { name: "History of main.py" }).click();
    const versions = page.getByRole("region", { name: "Versions of main.py" }).getByRole("listitem");
    await eventually("three versions", async () => (await versions.count()) === 3);
    const said = await versions.allTextContents();
    assert.match(said[0], /Changed in the editor\s*now.*local.*5 B/s);
    assert.match(said[1], /Changed in the terminal/);
    assert.match(said[2], /Created in the editor.*admin/s);
    const dialog = page.getByRole("dialog");
    await versions.nth(2).getByRole("button", { name: "View" }).click();
    await dialog.getByText("first").waitFor();
    await page.keyboard.press("Escape");
    await versions.nth(1).getByRole("button", { name: "Compare with now" }).click();
    await dialog.getByText("second").waitFor();
    await dialog.getByText("third").waitFor();
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });

    await versions.nth(2).getByRole("button", { name: "Restore" }).click();
    await onDisk(file, holds("first\n"));
    await eventually("the editor follows", async () => (await editorText(page)) === "first\n");
    await toast(page, "main.py is as it was").getByRole("button", { name: "Undo" }).click();
    await onDisk(file, holds("third"));
    await eventually("the editor follows back", async () => (await editorText(page)) === "third");
    // The history says so itself, without being asked again.
    await eventually("five versions", async () => (await versions.count()) === 5);
    assert.match(await versions.first().textContent(), /Restored\s*now/);

    await page.getByRole("button", { name: "Undo last change" }).click();
    await onDisk(file, holds("first\n"));
  }));

test("what is edited and not saved yet goes into the history before a restore", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "unsaved");
    await put(server, id, "a.txt", "one\n");
    await put(server, id, "a.txt", "two\n");
    await open(page, "a.txt");
    await page.getByRole("button", { name: "History of a.txt" }).click();
    const versions = page.getByRole("region", { name: "Versions of a.txt" }).getByRole("listitem");
    await eventually("two versions", async () => (await versions.count()) === 2);
    await page.locator(".cm-content").click();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("precious");
    await versions.last().getByRole("button", { name: "Restore" }).click();
    await eventually("it is restored", async () => (await server.text(id, "a.txt")) === "one\n");
    await eventually("the editor follows", async () => (await editorText(page)) === "one\n");
    const { versions: all } = await server.json("GET", `/api/workspace/${id}/history?path=a.txt`);
    const texts = await Promise.all(all.map(async (v) => (await server.api("GET", `/api/workspace/${id}/versions/${v.version}`)).text()));
    assert.ok(texts.includes("precious"), texts.join("|"));
  }));

test("a folder and everything can be brought back to an earlier state, and a deleted file by undo", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "back");
    await server.json("POST", `/api/workspace/${id}/batch`, {
      ops: ["src/a.py", "src/b.py", "other.txt"].map((path) => ({ op: "write", path, data: `${path}\n` })),
    });
    const disk = (path) => join(server.appOf(id), path);
    await onDisk(disk("src/b.py"));
    await type(page, "rm src/a.py; echo changed > src/b.py; echo new > src/c.py; echo changed > other.txt");
    await eventually("all is committed", async () => (await server.text(id, "src/c.py")) === "new\n" && (await server.text(id, "other.txt")) === "changed\n" && (await server.text(id, "src/a.py")) === undefined && (await server.text(id, "src/b.py")) === "changed\n");

    // The folder: what it held then, and nothing that it did not.
    await page.getByRole("treeitem", { name: "src" }).click({ button: "right" });
    await page.getByRole("menuitem", { name: "History" }).click();
    await page.getByRole("region", { name: "Versions of src" }).getByRole("button", { name: "Restore to here" }).last().click();
    await toast(page, "src is as it was").waitFor();
    await onDisk(disk("src/a.py"), holds("src/a.py\n"));
    await onDisk(disk("src/b.py"), holds("src/b.py\n"));
    assert.equal(await server.text(id, "src/c.py"), undefined);
    assert.equal(await server.text(id, "other.txt"), "changed\n");
    await toast(page, "src is as it was").getByRole("button", { name: "Undo" }).click();
    await onDisk(disk("src/c.py"), holds("new\n"));

    // Everything.
    await page.getByRole("button", { name: "History of all files" }).click();
    await page.getByRole("region", { name: "Changes" }).getByRole("button", { name: "Restore to here" }).last().click();
    await onDisk(disk("other.txt"), holds("other.txt\n"));
    await onDisk(disk("src/b.py"), holds("src/b.py\n"));

    // A delete in the tree.
    await page.getByRole("treeitem", { name: "other.txt" }).focus();
    await page.keyboard.press("Delete");
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByRole("treeitem", { name: "other.txt" }).waitFor({ state: "detached" });
    await toast(page, "other.txt is deleted").getByRole("button", { name: "Undo" }).click();
    await onDisk(disk("other.txt"), holds("other.txt\n"));
    await page.getByRole("treeitem", { name: "other.txt" }).waitFor();
  }));
