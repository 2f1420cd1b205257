// Text that the server does not have: nothing on the page throws it away unasked.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createSession, editorText, eventually, focusTerminal, judge, open, type, waitForScreen, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

const put = (server, id, path, text) => server.api("PUT", `/api/workspace/${id}/file/${path}`, text);

async function typeAtEnd(page, text) {
  await page.locator(".cm-content").focus();
  await page.keyboard.press("Control+End");
  await page.keyboard.type(text);
}

/** Saves of the page fail from now on, as if the network were gone; answers how to end that. */
async function cutSaves(page, allowed) {
  allowed.offline = true;
  const save = (route) => (route.request().method() === "PUT" ? route.abort("connectionrefused") : route.fallback());
  await page.route("**/api/workspace/**", save);
  return () => page.unroute("**/api/workspace/**", save);
}

/** Sees the question in both schemes; answers its dialog. */
async function asked(page, title) {
  const dialog = page.getByRole("dialog", { name: title });
  await dialog.waitFor();
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    assert.deepEqual(await judge(page), [], `${title}, ${colorScheme}`);
  }
  return dialog;
}

test("a tab closed with edits is saved first, and asks only if that fails", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    const id = await createSession(page, "tabs");
    await put(server, id, "main.py", "one\n");
    await open(page, "main.py");
    const tab = page.getByRole("tab", { name: "main.py" });
    await typeAtEnd(page, "two");
    await tab.press("Delete");
    await tab.waitFor({ state: "detached" });
    assert.equal(await server.text(id, "main.py"), "one\ntwo");

    await open(page, "main.py");
    await eventually("it is shown", async () => (await editorText(page)) === "one\ntwo");
    const mend = await cutSaves(page, allowed);
    await typeAtEnd(page, " three");
    await tab.press("Delete");
    const dialog = await asked(page, "Close main.py without saving?");
    // The default keeps the text.
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "detached" });
    assert.equal(await editorText(page), "one\ntwo three");

    await tab.press("Delete");
    await dialog.getByRole("button", { name: "Close without saving" }).click();
    await tab.waitFor({ state: "detached" });
    assert.equal(await server.text(id, "main.py"), "one\ntwo");

    // A save that comes through after all is an answer, too.
    await open(page, "main.py");
    await eventually("it is shown", async () => (await editorText(page)) === "one\ntwo");
    await typeAtEnd(page, "!");
    await tab.press("Delete");
    await dialog.waitFor();
    await mend();
    await tab.waitFor({ state: "detached" });
    await dialog.waitFor({ state: "detached" });
    assert.equal(await server.text(id, "main.py"), "one\ntwo!");
  }));

test("a tab in conflict is asked about, and theirs can be taken with mine in the history", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    const id = await createSession(page, "conflict");
    await put(server, id, "main.py", "one");
    await open(page, "main.py");
    allowed.offline = true;
    const mend = await cutSaves(page, allowed);
    await typeAtEnd(page, " mine");
    await put(server, id, "main.py", "one theirs");
    const note = page.getByRole("alert").filter({ hasText: "changed elsewhere in the same lines" });
    await note.waitFor();
    await page.getByRole("tab", { name: "main.py" }).press("Delete");
    const dialog = await asked(page, "Close main.py without saving?");
    await dialog.getByText("was changed elsewhere in the same lines").waitFor();
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });

    await note.getByRole("button", { name: "Take theirs" }).click();
    await note.getByText("That was not done").waitFor();
    assert.equal(await editorText(page), "one mine");
    await mend();
    await note.getByRole("button", { name: "Take theirs" }).click();
    await note.waitFor({ state: "detached" });
    assert.equal(await editorText(page), "one theirs");
    const { versions } = await server.json("GET", `/api/workspace/${id}/history?path=main.py`);
    const texts = versions.map(async ({ version }) => (await server.api("GET", `/api/workspace/${id}/versions/${version}`)).text());
    assert.deepEqual(await Promise.all(texts), ["one theirs", "one mine", "one theirs", "one"]);
    await page.locator(".cm-content").focus();
    await page.keyboard.press("Control+Z");
    await eventually("undo brings mine back", async () => (await editorText(page)) === "one mine");
  }));

test("leaving the workspace saves, asks if that fails, and whoever stays has the address again", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    const id = await createSession(page, "leave");
    await put(server, id, "main.py", "one\n");
    await open(page, "main.py");
    const list = page.getByRole("heading", { name: "Sessions" });
    await typeAtEnd(page, "two");
    await page.getByRole("link", { name: "All sessions" }).click();
    await list.waitFor();
    assert.equal(await server.text(id, "main.py"), "one\ntwo");

    await page.getByRole("link", { name: "leave" }).click();
    await eventually("it is shown", async () => (await editorText(page)) === "one\ntwo");
    const { pathname, search } = new URL(page.url());
    const mend = await cutSaves(page, allowed);
    await typeAtEnd(page, " three");
    const dialog = page.getByRole("dialog", { name: "Close main.py without saving?" });
    for (const away of [() => page.getByRole("link", { name: "All sessions" }).click(), () => page.evaluate(() => history.back())]) {
      await away();
      await dialog.getByRole("button", { name: "Keep open" }).click();
      await dialog.waitFor({ state: "detached" });
      await eventually("the address stands", () => page.url().endsWith(pathname + search));
      assert.equal(await editorText(page), "one\ntwo three");
    }
    // What can be saved again is not asked about.
    await mend();
    await page.evaluate(() => history.back());
    await list.waitFor();
    assert.equal(new URL(page.url()).pathname, "/");
    assert.equal(await server.text(id, "main.py"), "one\ntwo three");
  }));

test("a sign-in that ends is asked again over the page, which then goes on with all it had", patience, () =>
  withPage({}, async ({ page, context, server, allowed }) => {
    const id = await createSession(page, "again");
    await put(server, id, "main.py", "one\n");
    await open(page, "main.py");
    await focusTerminal(page);
    await page.keyboard.type("echo $((6*");
    await waitForScreen(page, "echo $((6*");
    allowed.offline = true;
    const answer = await context.request.post(`${server.base}/api/sign-out`, { headers: { "x-berth": "1", origin: server.base } });
    assert.ok(answer.ok(), `signed out: ${answer.status()}`);
    await typeAtEnd(page, "two");
    const dialog = await asked(page, "Sign in again");
    // Nothing puts it away but a sign-in.
    for (let n = 0; n < 3; n += 1) await page.keyboard.press("Escape");
    await dialog.waitFor();
    assert.equal(await editorText(page), "one\ntwo", "the page is as it was");
    await page.getByText("You are signed out").first().waitFor({ state: "attached" });
    assert.equal(await server.text(id, "main.py"), "one\n");

    await dialog.getByLabel("Sign-in link or token").fill(server.newLink());
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "detached" });
    await eventually("what was typed is saved", async () => (await server.text(id, "main.py")) === "one\ntwo");
    await page.locator("footer").getByText("Connected").waitFor();
    await type(page, "7))");
    await waitForScreen(page, "\n42\n");
    // And what happens elsewhere is heard of again.
    await put(server, id, "new.txt", "");
    await page.getByRole("treeitem", { name: "new.txt" }).waitFor();
  }));
