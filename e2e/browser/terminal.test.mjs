// Terminals in a real browser: what they survive, and what they never type by themselves.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, eventually, focusTerminal, keepKeys, onDisk, open, screen, type, waitForScreen, withPage } from "./harness.mjs";

const patience = { timeout: 180_000 };

/** What programs ask a terminal, as recorded: attributes, status, cursor, colours, modes, settings, version, size, clipboard. */
const QUERIES = {
  DA1: "\x1b[c", DA2: "\x1b[>c", DA3: "\x1b[=c", DSR: "\x1b[5n", CPR: "\x1b[6n", DECXCPR: "\x1b[?6n",
  foreground: "\x1b]10;?\x07", background: "\x1b]11;?\x07", cursor: "\x1b]12;?\x1b\\", palette: "\x1b]4;1;?\x07",
  DECRQM: "\x1b[?2004$p", RQM: "\x1b[4$p", DECRQSS: "\x1bP$qm\x1b\\", XTVERSION: "\x1b[>q", XTGETTCAP: "\x1bP+q544e\x1b\\",
  cells: "\x1b[18t", pixels: "\x1b[14t", kitty: "\x1b[?u", clipboard: "\x1b]52;c;?\x07",
};
const RECORDED = Object.entries(QUERIES).map(([name, query]) => `${name}:${query}\r\n`).join("");

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
    await waitForScreen(page, /a line for the program\nready> /);
    await type(page, "cat typed.txt; echo kept=$kept");
    await waitForScreen(page, /ready> cat typed.*\na line for the program\nkept=yes/);
  }));

const firstTerminal = (page) => page.getByRole("tablist", { name: "Terminals" }).getByRole("tab").first();

/** Types one key and answers all that the program was typed up to it: any answer of the terminal's would stand before. */
async function upToKey(page, keys, key) {
  await focusTerminal(page);
  await page.keyboard.press(key);
  return eventually(`the key ${key}`, () => {
    const bytes = keys();
    return bytes.at(-1) === key.charCodeAt(0) && bytes;
  });
}

test("queries in recorded output are answered once, and never again by a reload, a reconnect or a hidden tab", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    const id = await createSession(page, "queries");
    const keys = await keepKeys(page, server, id, { says: RECORDED });
    await waitForScreen(page, "clipboard:");
    const live = (await upToKey(page, keys, "a")).toString("latin1");
    assert.match(live, /\x1b\[\?[\d;]*c/, "DA1 is answered while it is live");
    assert.match(live, /\x1b\[\d+;\d+R/, "the cursor's place is told while it is live");
    assert.doesNotMatch(live, /52;c;[^\x07\x1b]/, "nothing of the clipboard is told");

    await page.reload();
    await waitForScreen(page, "clipboard:");
    assert.equal((await upToKey(page, keys, "b")).toString("latin1"), `${live}b`, "a reload typed something");

    allowed.offline = true;
    const tty = await terminalOf(server, id, "keys.py");
    await server.kill();
    await page.getByText(/disconnected/i).first().waitFor();
    writeFileSync(tty, `${RECORDED}while away\r\n`);
    await server.start();
    await waitForScreen(page, "while away");
    allowed.offline = false;
    assert.equal((await upToKey(page, keys, "c")).toString("latin1"), `${live}bc`, "a reconnect typed something");

    await page.getByRole("button", { name: "New terminal" }).click();
    await waitForScreen(page, /^\s*ready> \s*$/);
    writeFileSync(tty, `${RECORDED}while hidden\r\n`);
    await firstTerminal(page).click();
    await waitForScreen(page, "while hidden");
    assert.equal((await upToKey(page, keys, "d")).toString("latin1"), `${live}bcd`, "a tab that was hidden typed something");

    // And what is live again is answered again.
    writeFileSync(tty, "\x1b[5n");
    await eventually("an answer", () => keys().toString("latin1").endsWith("d\x1b[0n"));
  }));

/** The terminal device on which a program of a session runs. */
async function terminalOf(server, id, program) {
  const script = `for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q "python3.*${program}" && readlink $p/fd/0; done 2>/dev/null`;
  const said = await (await server.api("POST", `/api/sessions/${id}/exec`, JSON.stringify({ command: script }))).text();
  const tty = said.match(/\/dev\/pts\/\d+/)?.[0];
  assert.ok(tty, said);
  return tty;
}

test("a hidden terminal gets no bytes, does not count for the size, and shows all when it is back", patience, () =>
  withPage({}, async ({ page, server, context }) => {
    let received = 0;
    page.on("websocket", (socket) => {
      if (socket.url().includes("/terminals/")) socket.on("framereceived", ({ payload }) => typeof payload !== "string" && (received += payload.length));
    });
    const id = await createSession(page, "hidden");
    await type(page, "until [ -e go ]; do sleep 0.05; done; seq 1 3000; touch done");
    await page.getByRole("button", { name: "New terminal" }).click();
    await waitForScreen(page, /^\s*ready> \s*$/);
    const before = received;
    writeFileSync(join(server.appOf(id), "go"), "");
    await onDisk(join(server.appOf(id), "done"));
    // An answer in this terminal: whatever was sent of the other one before is here, too.
    await type(page, "echo $((6*7))");
    await waitForScreen(page, "\n42\n");
    assert.ok(received - before < 4_000, `${received - before} bytes while hidden`);
    await firstTerminal(page).click();
    const seen = await waitForScreen(page, /\n3000\n/);
    for (const n of [1, 1500, 3000]) assert.equal(seen.split(`\n${n}\n`).length - 1, 1, `line ${n}`);

    // A second, narrower window on the same terminal sets its width until it is out of sight.
    const wide = Number((await ask(page, "stty size")).split(" ")[1]);
    const other = await context.newPage();
    await other.setViewportSize({ width: 760, height: 700 });
    await other.goto(page.url());
    await eventually("it is narrower", async () => Number((await ask(page, "stty size")).split(" ")[1]) < wide);
    await other.evaluate(() => {
      Object.defineProperty(document, "visibilityState", { get: () => "hidden" });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await eventually("it is wide again", async () => Number((await ask(page, "stty size")).split(" ")[1]) === wide);
  }));

let asked = 0;
/** What a command prints. */
async function ask(page, command) {
  const mark = `answer-${(asked += 1)}`;
  await type(page, `echo ${mark}:$(${command}):`);
  const seen = await waitForScreen(page, new RegExp(`\\n${mark}:[^\\n]*:`));
  return seen.match(new RegExp(`\\n${mark}:([^\\n]*):`))[1];
}

test("a paste of 100 kB arrives whole", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "paste");
    const keys = await keepKeys(page, server, id);
    const text = Array.from({ length: 2_000 }, (_, n) => `${n}: ${"äöü 日本 🚢 ".repeat(2)}x`.padEnd(48, ".")).join("\r").slice(0, 90_000);
    await focusTerminal(page);
    await page.evaluate((pasted) => {
      const data = new DataTransfer();
      data.setData("text/plain", pasted);
      document.activeElement.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
    }, text);
    const bytes = Buffer.from(text);
    assert.ok(bytes.length > 100_000);
    await eventually("all of it", () => keys().length >= bytes.length);
    const hash = (b) => createHash("sha256").update(b).digest("hex");
    assert.equal(hash(keys()), hash(bytes));
  }));

test("what is composed by an input method is typed once", patience, () =>
  withPage({}, async ({ page, server, context }) => {
    const id = await createSession(page, "compose");
    const keys = await keepKeys(page, server, id);
    const method = await context.newCDPSession(page);
    const compose = async () => {
      for (const text of ["に", "にほ", "にほん", "日本"]) await method.send("Input.imeSetComposition", { text, selectionStart: text.length, selectionEnd: text.length });
      await method.send("Input.insertText", { text: "日本" });
    };
    await focusTerminal(page);
    await compose();
    await eventually("it is typed", () => keys().length > 0);
    assert.equal((await upToKey(page, keys, "x")).toString(), "日本x");

    await server.api("PUT", `/api/workspace/${id}/file/a.txt`, "");
    await page.getByRole("treeitem", { name: "a.txt" }).click();
    await page.locator(".cm-content").click();
    await compose();
    await page.keyboard.press("Control+S");
    await eventually("it is saved", async () => (await server.text(id, "a.txt")) === "日本");
  }));

test("keys typed before a terminal is hidden for long are not lost with its screen", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    await createSession(page, "hidden");
    await page.getByRole("button", { name: "New terminal" }).click();
    await waitForScreen(page, /^\s*ready> \s*$/);
    await firstTerminal(page).click();
    await waitForScreen(page, "ready> ");
    await page.clock.install();
    allowed.offline = true;
    await server.kill();
    await page.getByText(/disconnected/i).first().waitFor();
    await type(page, "echo $((6*7)) > typed.txt; echo kept");
    await page.getByRole("tablist", { name: "Terminals" }).getByRole("tab").nth(1).click();
    await page.clock.fastForward("06:00");
    assert.equal(await page.locator(".xterm").count(), 2, "its screen waits for the keys");
    await server.start();
    await page.getByRole("button", { name: "Retry now" }).first().click();
    await page.getByRole("treeitem", { name: "typed.txt" }).waitFor();
    allowed.offline = false;
    await firstTerminal(page).click();
    await waitForScreen(page, "\nkept");
    // With nothing left to send the screen goes, and a snapshot brings it back.
    await page.getByRole("tablist", { name: "Terminals" }).getByRole("tab").nth(1).click();
    await page.clock.fastForward("06:00");
    await eventually("its screen is put away", async () => (await page.locator(".xterm").count()) === 1);
    await firstTerminal(page).click();
    await waitForScreen(page, "\nkept");
  }));

test("keys typed while the server is killed arrive once each, in order", patience, () =>
  withPage({}, async ({ page, server, allowed }) => {
    const id = await createSession(page, "killed");
    const keys = await keepKeys(page, server, id);
    await focusTerminal(page);
    allowed.offline = true;
    let typed = "";
    for (let n = 0; n < 200; n += 1) {
      await page.keyboard.type(`${n};`);
      typed += `${n};`;
      if (n === 80) await server.kill();
      if (n === 120) await server.start();
    }
    await eventually("all keys", () => keys().length >= typed.length);
    allowed.offline = false;
    assert.equal(keys().toString(), typed);
  }));

test("a terminal is closed with all that runs in it, after a question, and another opened", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "closing");
    await type(page, "echo $$ > pid; exec sleep 1000");
    const pid = Number(String(await onDisk(join(server.appOf(id), "pid"), (bytes) => bytes.length > 1)));
    await firstTerminal(page).focus();
    await page.keyboard.press("Delete");
    await page.getByRole("dialog").getByRole("button", { name: "Close terminal" }).click();
    await page.getByText("No terminal is open.").waitFor();
    await eventually("its program is gone", () => {
      try {
        return process.kill(pid, 0) && false;
      } catch {
        return true;
      }
    });
    await page.getByRole("button", { name: "New terminal" }).last().click();
    await waitForScreen(page, "ready> ");
  }));

test("Ctrl-S in a shell saves the open file and freezes nothing; full-screen programs get it", patience, () =>
  withPage({}, async ({ page, server }) => {
    const id = await createSession(page, "save-key");
    await server.api("PUT", `/api/workspace/${id}/file/a.txt`, "old\n");
    await open(page, "a.txt");
    await page.locator(".cm-content").click();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("new");
    await focusTerminal(page);
    await page.keyboard.press("Control+S");
    await eventually("it is saved", async () => (await server.text(id, "a.txt")) === "new");
    await type(page, "echo not $((1+1)) frozen");
    await waitForScreen(page, "not 2 frozen");
    const keys = await keepKeys(page, server, id, { says: "\x1b[?1049hfull screen", shows: "full screen" });
    await page.keyboard.press("Control+S");
    await eventually("the program has it", () => keys().toString() === "\x13");
  }));
