// The tree of files: by keyboard, by mouse, and with thousands of files in it.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, eventually, onDisk, open, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

/** The path of the row that has the keyboard. */
const here = (page) => page.evaluate(() => document.activeElement?.closest('[role="treeitem"]')?.getAttribute("title") ?? "");
const at = (page, path) => eventually(`the keyboard is at ${path}`, async () => (await here(page)) === path);
const pathsOf = async (server, id) => (await server.json("GET", `/api/workspace/${id}/tree`)).items.map((item) => item.path);

test("the tree works from the keyboard alone", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "keyboard");
    await server.json("POST", `/api/workspace/${id}/batch`, {
      ops: ["docs/guide.md", "src/lib/deep.py", "src/main.py", "zebra.txt"].map((path) => ({ op: "write", path, data: `${path}\n` })),
    });
    await page.getByRole("treeitem", { name: "zebra.txt" }).waitFor();
    await page.getByRole("tree", { name: "Files" }).focus();
    await page.keyboard.press("Home");
    await at(page, "docs");
    await page.keyboard.press("ArrowDown");
    await at(page, "src");
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    await at(page, "src/lib");
    assert.equal(await page.getByRole("treeitem", { name: "lib" }).getAttribute("aria-level"), "2");
    await page.keyboard.press("End");
    await at(page, "zebra.txt");
    await page.keyboard.type("ma");
    await at(page, "src/main.py");
    await page.keyboard.press("ArrowLeft");
    await at(page, "src");
    await page.keyboard.press("ArrowLeft");
    await page.getByRole("treeitem", { name: "main.py" }).waitFor({ state: "detached" });

    // Rename: the folder keeps what is in it.
    await page.keyboard.press("F2");
    await page.keyboard.type("code");
    await page.keyboard.press("Enter");
    await eventually("it is renamed", async () => (await pathsOf(server, id)).includes("code/lib/deep.py"));
    await onDisk(join(server.appOf(id), "code/lib/deep.py"));
    await at(page, "code");

    // Delete, with its question and Enter as the answer.
    await page.keyboard.press("End");
    await at(page, "zebra.txt");
    await page.keyboard.press("Delete");
    await page.getByRole("dialog", { name: "Delete “zebra.txt”?" }).waitFor();
    await page.keyboard.press("Enter");
    await eventually("it is deleted", async () => !(await pathsOf(server, id)).includes("zebra.txt"));

    // The menu.
    await page.getByRole("tree", { name: "Files" }).getByRole("treeitem", { name: "docs" }).focus();
    await page.keyboard.press("Shift+F10");
    await page.getByRole("menuitem", { name: "New file" }).waitFor();
    await page.keyboard.press("Enter");
    await page.keyboard.type("new.txt");
    await page.keyboard.press("Enter");
    await eventually("it is made", async () => (await pathsOf(server, id)).includes("docs/new.txt"));
    await page.getByRole("tab", { name: "new.txt" }).waitFor();
  }));

test("names that cannot be are refused with the reason, and nothing is made", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "names");
    await server.json("POST", `/api/workspace/${id}/batch`, { ops: [{ op: "write", path: "there.txt", data: "1" }] });
    await page.getByRole("treeitem", { name: "there.txt" }).waitFor();
    await page.getByRole("button", { name: "New file" }).click();
    for (const [name, why] of [["there.txt", "exists already"], ["..", "is not a name"], ["a//b", "is empty"], ["x".repeat(256), "at most 255 bytes"]]) {
      await page.keyboard.press("Control+A");
      await page.keyboard.insertText(name);
      await page.keyboard.press("Enter");
      await page.getByText(why).waitFor();
    }
    await page.keyboard.press("Escape");
    assert.deepEqual(await pathsOf(server, id), ["there.txt"]);
  }));

test("an item is moved by dragging it into a folder, and its tab goes with it", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "drag");
    await server.json("POST", `/api/workspace/${id}/batch`, { ops: [{ op: "mkdir", path: "box" }, { op: "write", path: "thing.txt", data: "1\n" }] });
    await open(page, "thing.txt");
    await page.getByRole("treeitem", { name: "thing.txt" }).dragTo(page.getByRole("treeitem", { name: "box" }));
    await onDisk(join(server.appOf(id), "box/thing.txt"));
    assert.deepEqual((await pathsOf(server, id)).sort(), ["box", "box/thing.txt"]);
    await page.locator('[role="tab"][title="box/thing.txt"]').waitFor();
  }));

test("a folder of 5,000 files opens at once and draws only what is in sight", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "many");
    const ops = Array.from({ length: 5_000 }, (_, n) => ({ op: "write", path: `many/file${String(n).padStart(4, "0")}.txt`, data: `${n}\n` }));
    await server.json("POST", `/api/workspace/${id}/batch`, { ops });
    const folder = page.getByRole("treeitem", { name: "many" });
    await folder.waitFor();
    const slowest = page.evaluate(() => new Promise((resolve) => {
      let last = performance.now(), worst = 0, frames = 0;
      const frame = (now) => {
        worst = Math.max(worst, now - last);
        last = now;
        if ((frames += 1) < 120) requestAnimationFrame(frame);
        else resolve(worst);
      };
      requestAnimationFrame(frame);
    }));
    await folder.click();
    await page.getByRole("treeitem", { name: "file0000.txt" }).waitFor();
    assert.equal(await page.getByRole("treeitem", { name: "file0000.txt" }).getAttribute("aria-setsize"), "5000");
    await page.keyboard.press("End");
    await at(page, "many/file4999.txt");
    assert.ok((await page.getByRole("treeitem").count()) < 120, "only the rows in sight are drawn");
    assert.ok((await slowest) < 2_000, `a frame took ${await slowest} ms`);
    await page.keyboard.press("Enter");
    await page.getByRole("tab", { name: "file4999.txt" }).waitFor();
  }));

test("with many tabs the one shown is in sight, and all are there after a reload", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "tabs");
    await server.json("POST", `/api/workspace/${id}/batch`, {
      ops: Array.from({ length: 30 }, (_, n) => ({ op: "write", path: `file${String(n).padStart(2, "0")}.txt`, data: `text ${n}\n` })),
    });
    await page.getByRole("treeitem", { name: "file00.txt" }).waitFor();
    await page.getByRole("tree", { name: "Files" }).focus();
    await page.keyboard.press("Home");
    for (let n = 0; n < 30; n += 1) {
      await at(page, `file${String(n).padStart(2, "0")}.txt`);
      await page.keyboard.press("Enter");
      await page.keyboard.press("ArrowDown");
    }
    const shown = page.getByRole("tablist", { name: "Open files" }).getByRole("tab", { selected: true });
    const inSight = () => shown.evaluate((tab) => {
      const box = tab.getBoundingClientRect();
      const bar = tab.closest('[role="tablist"]').getBoundingClientRect();
      return box.left >= bar.left - 1 && box.right <= bar.right + 1;
    });
    await eventually("the last tab is in sight", inSight);
    assert.equal(await shown.getAttribute("title"), "file29.txt");
    await page.reload();
    await page.getByRole("tab", { name: "file29.txt" }).waitFor();
    assert.equal(await page.getByRole("tablist", { name: "Open files" }).getByRole("tab").count(), 30);
    await page.locator(".cm-content", { hasText: "text 29" }).waitFor();
    await eventually("it is in sight again", inSight);
  }));

test("what was typed last into a file that is deleted comes back with it", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "typed-last");
    await server.api("PUT", `/api/workspace/${id}/file/a.txt`, "old\n");
    await open(page, "a.txt");
    await page.locator(".cm-content").click();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("typed last");
    await page.getByRole("treeitem", { name: "a.txt" }).click({ button: "right" });
    await page.getByRole("menuitem", { name: "Delete" }).click();
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByRole("tab", { name: "a.txt" }).waitFor({ state: "detached" });
    await eventually("it is deleted", async () => (await server.text(id, "a.txt")) === undefined);
    await page.locator(".toast", { hasText: "a.txt is deleted" }).getByRole("button", { name: "Undo" }).click();
    await onDisk(join(server.appOf(id), "a.txt"), (bytes) => String(bytes) === "typed last");
  }));
