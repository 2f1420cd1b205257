// A session's template, its variables, and its end, as its user sees them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createSession, eventually, judge, screen, type, waitForScreen, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

test("a user chooses a template, is warned of the end, puts it off with a click, and is told why it stopped", patience, () =>
  withPage({}, async ({ page, server }) => {
    await server.json("PUT", "/api/templates/short", { idle_s: 12, size: "medium" });
    await page.getByRole("button", { name: "New session" }).click();
    await page.getByLabel("Name", { exact: true }).fill("brief");
    await page.getByLabel("Template").selectOption("short");
    await page.getByRole("button", { name: "Create", exact: true }).click();
    await waitForScreen(page, "ready> ");
    await type(page, "echo kept > kept.txt");
    const keep = page.getByRole("button", { name: "Keep running" });
    const bar = page.getByText(/Stops in \d+ s, at .* because nothing happens in it\. Files are kept\./);
    await bar.waitFor();
    assert.deepEqual(await judge(page), []);
    const [session] = await server.sessions();
    assert.deepEqual([session.template, session.ending.cause], ["short", "idle"]);
    await keep.click();
    await bar.waitFor({ state: "hidden" });
    const [extended] = await server.sessions();
    assert.ok(Date.parse(extended.idle_at) > Date.parse(session.idle_at), `${extended.idle_at} after ${session.idle_at}`);
    // The page is open and asks all the while; nothing happens in the session.
    await bar.waitFor();
    await page.getByRole("heading", { name: "Stopped" }).waitFor();
    await page.getByText(/stopped after 12 seconds without activity\. All files are kept/).first().waitFor();
    await bar.waitFor({ state: "hidden" });
    await page.getByRole("button", { name: "Start", exact: true }).first().click();
    await waitForScreen(page, "ready> ");
    await type(page, "cat kept.txt");
    await waitForScreen(page, "\nkept\n");
  }));

/** Holds the first request to such an address before it is sent, or its answer; what becomes of it is awaited by `release`. */
async function hold(page, address, { answered = false } = {}) {
  let arrived, goOn;
  const held = new Promise((resolve) => { arrived = resolve; });
  const released = new Promise((resolve) => { goOn = resolve; });
  const handle = async (route) => {
    const response = answered ? await route.fetch() : undefined;
    arrived();
    await released;
    await (response ? route.fulfill({ response }) : route.continue());
  };
  await page.route(address, handle, { times: 1 });
  const release = async () => {
    goOn();
    await page.unrouteAll({ behavior: "wait" });
  };
  return { held, release };
}

test("a session that is stopped while its terminals are asked for ends without a complaint", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "stopped early");
    const terminals = await hold(page, /\/terminals$/);
    await server.json("POST", `/api/sessions/${id}/terminals`, {});
    await terminals.held;
    await server.json("POST", `/api/sessions/${id}/stop`, {});
    await page.getByRole("heading", { name: "Stopped" }).waitFor();
    await terminals.release();
    assert.equal(await page.getByText("could not be").count(), 0);
  }));

test("an answer from before a stop does not make the session run again on its page", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    const id = await createSession(page, "told since");
    const session = await hold(page, new RegExp(`/api/sessions/${id}$`), { answered: true });
    allowed.offline = true;
    await server.kill();
    await server.start();
    await session.held;
    allowed.offline = false;
    await server.json("POST", `/api/sessions/${id}/stop`, {});
    await page.getByRole("heading", { name: "Stopped" }).waitFor();
    const again = page.waitForRequest((request) => request.url().endsWith(`/api/sessions/${id}`));
    await session.release();
    await again;
    await page.getByRole("heading", { name: "Stopped" }).waitFor();
  }));

test("variables and secrets reach the next terminal, and a secret is never shown again", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "environment");
    const dialog = page.getByRole("dialog", { name: "Variables and secrets" });
    const openDialog = async () => {
      await page.getByRole("button", { name: "Variables and secrets" }).click();
      await dialog.getByRole("button", { name: "Add secret" }).waitFor();
    };
    await openDialog();
    await dialog.getByRole("button", { name: "Add variable" }).click();
    await dialog.getByLabel("Name of variable 1").fill("1bad");
    await dialog.getByText(/no digit first/).waitFor();
    assert.ok(await dialog.getByRole("button", { name: "Save" }).isDisabled());
    assert.deepEqual(await judge(page), []);
    await dialog.getByLabel("Name of variable 1").fill("GREETING");
    await dialog.getByLabel("Value of GREETING").fill("hello there");
    await dialog.getByRole("button", { name: "Add secret" }).click();
    await dialog.getByLabel("Name of secret 1").fill("TOKEN");
    await dialog.getByLabel("Value of TOKEN").fill("s3cret-by-page");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.waitFor({ state: "hidden" });
    await page.getByRole("button", { name: "New terminal" }).click();
    await eventually("another terminal", async () => (await server.json("GET", `/api/sessions/${id}/terminals`)).terminals.length === 2);
    await eventually("its prompt", async () => /ready> $/.test((await screen(page)).trimEnd() + " ") && !(await screen(page)).includes("echo"));
    await type(page, 'echo "<$GREETING $TOKEN>"');
    await waitForScreen(page, "<hello there s3cret-by-page>");
    await openDialog();
    assert.equal(await dialog.getByLabel("Value of GREETING").inputValue(), "hello there");
    assert.equal(await dialog.getByLabel("Value of TOKEN").inputValue(), "");
    assert.ok(!(await page.content()).includes('value="s3cret'));
    await dialog.getByRole("button", { name: "Remove TOKEN" }).click();
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.waitFor({ state: "hidden" });
    const left = await server.json("GET", `/api/sessions/${id}/environment`);
    assert.deepEqual(left, { variables: { GREETING: "hello there" }, secrets: [] });
  }));
