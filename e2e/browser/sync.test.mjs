// Files that two sides change: what the page shows, asks and never loses.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, editorText, eventually, onDisk, open, type, waitForScreen, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

const lines = (...all) => all.map((line) => `${line}\n`).join("");
const put = (server, id, path, text) => server.api("PUT", `/api/workspace/${id}/file/${path}`, text);
const treeOf = async (server, id) => (await server.json("GET", `/api/workspace/${id}/tree`)).items;
const holds = (text) => (bytes) => bytes.toString() === text;

test("sed -i in the terminal: the editor follows, and the cursor and undo stay", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "follow");
    await put(server, id, "main.py", lines("first", "second", "third"));
    await open(page, "main.py");
    await page.locator(".cm-line", { hasText: "second" }).click();
    await page.keyboard.press("End");
    await page.keyboard.type(" mine");
    await page.getByText("Ln 2, Col 12").waitFor();
    await eventually("it is saved", async () => (await server.text(id, "main.py")) === lines("first", "second mine", "third"));
    await onDisk(join(server.appOf(id), "main.py"), holds(lines("first", "second mine", "third")));
    await type(page, "sed -i 's/^first$/FIRST/; s/^third$/THIRD/' main.py");
    await eventually("the editor follows", async () => (await editorText(page)) === "FIRST\nsecond mine\nTHIRD\n");
    await page.getByText("changed in the terminal").waitFor();
    await page.getByText("Ln 2, Col 12").waitFor();
    // Undo takes back what was typed here, and leaves what came from there.
    await page.locator(".cm-content").focus();
    await page.keyboard.press("Control+Z");
    await eventually("what was typed is undone", async () => (await editorText(page)) === "FIRST\nsecond\nTHIRD\n");
    await page.keyboard.press("Control+S");
    await onDisk(join(server.appOf(id), "main.py"), holds(lines("FIRST", "second", "THIRD")));
  }));

test("different lines changed on both sides are merged, without a question", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "merge");
    await put(server, id, "main.py", lines("one", "two", "three", "four", "five"));
    await open(page, "main.py");
    const file = join(server.appOf(id), "main.py");
    await onDisk(file);
    await server.whileAgentStands(id, async () => {
      writeFileSync(file, lines("ONE", "two", "three", "four", "five"));
      await page.locator(".cm-line", { hasText: "five" }).click();
      await page.keyboard.press("End");
      await page.keyboard.type("!");
      await page.keyboard.press("Control+S");
      await eventually("it is saved", async () => (await server.text(id, "main.py"))?.includes("five!"));
    });
    const merged = lines("ONE", "two", "three", "four", "five!");
    await eventually("the database has both", async () => (await server.text(id, "main.py")) === merged);
    await onDisk(file, holds(merged));
    await eventually("the editor has both", async () => (await editorText(page)) === merged);
    assert.equal(await page.getByRole("button", { name: /conflict/ }).count(), 0);
  }));

/** The same line of an open file changed on both sides. */
async function collide(page, server, name, { shown = true } = {}) {
  const id = await createSession(page, name);
  await put(server, id, "main.py", lines("start", "end"));
  await put(server, id, "other.py", "other\n");
  await open(page, "main.py");
  const file = join(server.appOf(id), "main.py");
  await onDisk(file);
  if (!shown) await open(page, "other.py");
  await server.whileAgentStands(id, async () => {
    writeFileSync(file, lines("start THERE", "end"));
    await put(server, id, "main.py", lines("start HERE", "end"));
  });
  return { id, file };
}

test("the same line changed on both sides: both are kept, it is said once, and mine can stay", patience, () =>
  withPage({}, async ({ page, server }) => {
    const { id, file } = await collide(page, server, "mine");
    const note = page.getByRole("alert").filter({ hasText: "main.py was changed here and in the terminal" });
    await note.waitFor();
    assert.equal(await editorText(page), lines("start HERE", "end"));
    await onDisk(file, holds(lines("start HERE", "end")));
    await note.getByRole("button", { name: "Compare" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText("start THERE").waitFor();
    await dialog.getByText("start HERE").waitFor();
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });

    // Put away, it is in the list, also after a reload, which does not ask again.
    await note.getByRole("button", { name: "Close message" }).click();
    await page.reload();
    await page.getByRole("button", { name: "1 conflict" }).click();
    const list = page.getByRole("region", { name: "Conflicts and problems" });
    await list.getByRole("button", { name: "main.py" }).waitFor();
    assert.equal(await note.count(), 0, "it is shown once");
    await list.getByRole("button", { name: "Keep mine" }).click();
    await list.getByText("Everything is in step").waitFor();
    assert.equal(await server.text(id, "main.py"), lines("start HERE", "end"));
    const { versions } = await server.json("GET", `/api/workspace/${id}/history?path=main.py`);
    assert.ok(versions.some((v) => v.conflict_of !== null && !v.open_conflict), "theirs stays in the history");
  }));

test("theirs can be taken, and taken back", patience, () =>
  withPage({}, async ({ page, server }) => {
    const { id, file } = await collide(page, server, "theirs", { shown: false });
    // Another file is in front: it is told with a way there.
    const told = page.locator(".toast", { hasText: "main.py was changed on both sides" });
    await told.getByRole("button", { name: "Show" }).click();
    await page.getByRole("button", { name: "Take theirs" }).click();
    await onDisk(file, holds(lines("start THERE", "end")));
    await eventually("the editor has theirs", async () => (await editorText(page)) === lines("start THERE", "end"));
    assert.equal(await server.text(id, "main.py"), lines("start THERE", "end"));
    await page.getByRole("button", { name: "1 conflict" }).waitFor({ state: "detached" });
    await page.locator(".toast").getByRole("button", { name: "Undo" }).click();
    await onDisk(file, holds(lines("start HERE", "end")));
    await eventually("mine is back", async () => (await editorText(page)) === lines("start HERE", "end"));
  }));

test("the same text written on both sides is no conflict", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "equal");
    await put(server, id, "main.py", "old\n");
    await open(page, "main.py");
    const file = join(server.appOf(id), "main.py");
    await onDisk(file);
    await server.whileAgentStands(id, async () => {
      writeFileSync(file, "same\n");
      await put(server, id, "main.py", "same\n");
    });
    await type(page, "echo after > after.txt");
    await page.getByRole("treeitem", { name: "after.txt" }).waitFor();
    assert.equal(await editorText(page), "same\n");
    assert.equal(await page.getByRole("button", { name: /conflict/ }).count(), 0);
    assert.equal(await page.getByRole("alert").count(), 0);
  }));

/** A session most of whose files went while nobody looked, and the bar that asks. */
async function muchGone(page, server, name) {
  const id = await createSession(page, name);
  const ops = Array.from({ length: 24 }, (_, n) => ({ op: "write", path: `src/part/file${n}.txt`, data: `text ${n}\n` }));
  await server.json("POST", `/api/workspace/${id}/batch`, { ops: [...ops, { op: "write", path: "stays.txt", data: "stays\n" }] });
  const folder = join(server.appOf(id), "src");
  await onDisk(join(folder, "part/file23.txt"));
  await server.restarted(id, () => rmSync(folder, { recursive: true }));
  const bar = page.getByRole("alert").filter({ hasText: "gone from the session's folder" });
  await bar.getByText("26 items are gone").waitFor();
  assert.match(await bar.textContent(), /: src\./);
  await page.locator("footer").getByText("Deletes wait for you").waitFor();
  assert.equal((await treeOf(server, id)).filter((item) => item.kind === "file").length, 25, "nothing is deleted unasked");
  return { id, folder, bar };
}

test("a mass delete found at a start is held: put back", patience, () =>
  withPage({}, async ({ page, server }) => {
    const { id, folder, bar } = await muchGone(page, server, "putback");
    await bar.getByRole("button", { name: "Put back" }).click();
    await bar.waitFor({ state: "detached" });
    for (let n = 0; n < 24; n += 1) await onDisk(join(folder, `part/file${n}.txt`), holds(`text ${n}\n`));
    assert.equal((await treeOf(server, id)).filter((item) => item.kind === "file").length, 25);
  }));

test("a mass delete found at a start is held: deleted here, too, and brought back from the history", patience, () =>
  withPage({}, async ({ page, server }) => {
    const { id, folder, bar } = await muchGone(page, server, "gone");
    await bar.getByRole("button", { name: "Delete here, too" }).click();
    await bar.waitFor({ state: "detached" });
    await eventually("they are gone", async () => (await treeOf(server, id)).every((item) => !item.path.startsWith("src")));
    await page.getByRole("treeitem", { name: "src" }).waitFor({ state: "detached" });
    await page.getByRole("button", { name: "History of all files" }).click();
    await page.getByText("26 deleted in the terminal").waitFor();
    await page.getByRole("button", { name: "Restore to here" }).first().click();
    for (let n = 0; n < 24; n += 1) await onDisk(join(folder, `part/file${n}.txt`), holds(`text ${n}\n`));
    await page.getByRole("treeitem", { name: "src" }).waitFor();
  }));

test("what cannot be kept in step is in the list and in the tree, with the reason, until it is gone", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "problems");
    await put(server, id, "src/main.py", "1\n");
    await onDisk(join(server.appOf(id), "src/main.py"));
    await type(page, "mkfifo src/pipe && ln -s /etc/passwd outside");
    await page.getByRole("button", { name: "2 problems" }).click();
    const list = page.getByRole("region", { name: "Conflicts and problems" });
    await list.getByText("Only files, folders and symlinks are kept in step.").waitFor();
    await list.getByText("The symlink points outside the workspace.").waitFor();
    await page.getByRole("treeitem", { name: /^outside\b.*The symlink points outside/ }).waitFor();
    await page.getByRole("treeitem", { name: /^src\b.*1 path in it/ }).click();
    await page.getByRole("treeitem", { name: /^pipe\b.*Only files/ }).waitFor();
    // What is around them goes on.
    await type(page, "echo 2 > src/main.py");
    await eventually("it is committed", async () => (await server.text(id, "src/main.py")) === "2\n");
    await type(page, "rm src/pipe outside");
    await list.getByText("Everything is in step").waitFor();
    await page.getByRole("treeitem", { name: /outside|pipe/ }).waitFor({ state: "detached" });
    await page.getByRole("button", { name: /problem/ }).waitFor({ state: "detached" });
  }));

test("bytes that nobody changed stay as they are: line ends, emoji, no last newline", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "bytes");
    await put(server, id, "dos.txt", "\ufeffone\r\ntwo 🚢\r\nend");
    await open(page, "dos.txt");
    await page.locator(".cm-line", { hasText: "one" }).click();
    await page.keyboard.press("Home");
    await page.keyboard.type("é");
    await page.keyboard.press("Control+S");
    await onDisk(join(server.appOf(id), "dos.txt"), holds("\ufeffé" + "one\r\ntwo 🚢\r\nend"));
  }));

test("a file deleted in the terminal while it is open keeps its text here, and can be restored", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "deleted");
    await put(server, id, "main.py", "kept\n");
    await open(page, "main.py");
    const file = join(server.appOf(id), "main.py");
    await onDisk(file);
    await type(page, "rm main.py");
    await page.getByText("was deleted elsewhere").waitFor();
    assert.equal(await editorText(page), "kept\n");
    await page.getByRole("button", { name: "Restore file" }).click();
    await onDisk(file, holds("kept\n"));
    await page.getByText("was deleted elsewhere").waitFor({ state: "detached" });
  }));

test("files go up and come back as a zip, byte for byte", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "zip");
    const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, n) => (n * 7919) % 256));
    const folder = join(server.folder, "up");
    mkdirSync(folder);
    writeFileSync(join(folder, "picture.bin"), bytes);
    await page.locator("input[type=file]").setInputFiles(join(folder, "picture.bin"));
    assert.ok((await onDisk(join(server.appOf(id), "picture.bin"), (b) => b.length === bytes.length)).equals(bytes));
    const started = page.waitForEvent("download");
    await page.getByRole("link", { name: "Download all files as zip" }).click();
    const zip = join(folder, "all.zip");
    await (await started).saveAs(zip);
    execFileSync("python3", ["-m", "zipfile", "-e", zip, folder]);
    const back = [join(folder, "picture.bin"), join(folder, "zip/picture.bin")].filter((path) => existsSync(path)).at(-1);
    assert.ok(readFileSync(back).equals(bytes));
  }));
