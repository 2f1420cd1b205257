// A server of its own and a real browser for each test; what the page must never do fails the test.

import { execFileSync, spawn } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { chromium } from "playwright-core";

const require = createRequire(import.meta.url);
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const program = process.env.BERTH_E2E_SERVER ?? new URL("../../target/release/control-plane", import.meta.url).pathname;
const flags = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

/** Waits until `probe` gives something. */
export async function eventually(what, probe, ms = 30_000) {
  const end = Date.now() + ms;
  let last;
  for (;;) {
    try {
      const found = await probe();
      if (found) return found;
    } catch (why) {
      last = why;
    }
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}${last ? `: ${last}` : ""}`);
    await pause(25);
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const listener = createServer().on("error", reject);
    listener.listen(0, "127.0.0.1", () => {
      const { port } = listener.address();
      listener.close(() => resolve(port));
    });
  });
}

/** A server with a folder of its own. */
export class Server {
  folder = mkdtempSync(join(tmpdir(), "berth-browser-"));
  token = `browser-test-${process.pid}-${Math.random().toString(36).slice(2)}`;
  port = 0;

  constructor() {
    for (const name of ["data", "home"]) mkdirSync(join(this.folder, name));
    writeFileSync(join(this.folder, "home/.bashrc"), "PS1='ready> '\nunset HISTFILE\nbind 'set enable-bracketed-paste off' 2>/dev/null\n");
  }

  async start() {
    // A fixed port from the beginning: a restarted server must find the browser's cookie, named after it.
    this.port ||= await freePort();
    const env = { BERTH_ADMIN_TOKEN: this.token, HOME: join(this.folder, "home"), PATH: process.env.PATH, SHELL: "/bin/bash", USER: "tester" };
    this.child = spawn(program, ["--listen", `127.0.0.1:${this.port}`, "--data", join(this.folder, "data")], { env, stdio: ["ignore", "pipe", "pipe"] });
    let out = "";
    const log = createWriteStream(join(this.folder, "server.log"), { flags: "a" });
    this.child.stdout.on("data", (bytes) => { out += bytes; log.write(bytes); });
    this.child.stderr.on("data", (bytes) => log.write(bytes));
    this.link = await eventually("the server prints its link", () => out.match(/http:\/\/127\.0\.0\.1:\d+\/sign-in\?token=\S+/)?.[0]);
    this.base = `http://127.0.0.1:${this.port}`;
    await eventually("the server is ready", async () => (await fetch(`${this.base}/readyz`)).ok);
  }

  /** Another one-time link, as an operator prints one. */
  newLink() {
    const printed = execFileSync(program, ["sign-in-link", "--data", join(this.folder, "data")], { encoding: "utf8" });
    return printed.match(/http\S+token=\S+/)[0];
  }

  async kill() {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }

  /** The API, as a script uses it. */
  async api(method, path, body) {
    const headers = { authorization: `Bearer ${this.token}` };
    return fetch(`${this.base}${path}`, { method, headers, body });
  }

  async json(method, path, body) {
    const answer = await this.api(method, path, body === undefined ? undefined : JSON.stringify(body));
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return answer.status === 204 ? undefined : answer.json();
  }

  /** A file's text in the database. */
  async text(id, path) {
    const answer = await this.api("GET", `/api/workspace/${id}/file/${path}`);
    return answer.ok ? answer.text() : undefined;
  }

  /** The folder that a session's shell sees. */
  appOf(id) {
    return join(this.folder, "data/sessions", id, "app");
  }

  /** Works while the session's agent hears nothing of it: what happens on either side meets afterwards. */
  async whileAgentStands(id, work) {
    const pid = Number(readFileSync(join(this.folder, "data/sessions", id, ".berth/agent.lock"), "utf8"));
    process.kill(pid, "SIGSTOP");
    try {
      return await work();
    } finally {
      process.kill(pid, "SIGCONT");
    }
  }

  /** Stops a session and starts it again, with `work` between. */
  async restarted(id, work) {
    const state = (wanted) => eventually(wanted, async () => (await this.sessions()).find((s) => s.uuid === id).state === wanted);
    await this.json("POST", `/api/sessions/${id}/stop`, {});
    await state("stopped");
    await work();
    await this.json("POST", `/api/sessions/${id}/start`, {});
    await state("running");
  }

  async sessions() {
    return (await (await this.api("GET", "/api/sessions")).json()).sessions;
  }

  async end() {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      try {
        for (const session of await this.sessions()) await this.api("POST", `/api/sessions/${session.uuid}/stop`, "{}");
        await eventually("sessions stop", async () => (await this.sessions()).every((s) => ["stopped", "failed"].includes(s.state)), 15_000);
      } catch { /* ended by number below */ }
      await this.kill();
    }
    const sessions = join(this.folder, "data/sessions");
    let names = [];
    try { names = readdirSync(sessions); } catch { /* no session was ever made */ }
    for (const name of names) {
      try {
        const pid = Number(readFileSync(join(sessions, name, ".berth/agent.lock"), "utf8"));
        const line = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        if (line.includes(this.folder)) process.kill(pid, "SIGTERM");
      } catch { /* ended already */ }
    }
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 10 });
  }
}

/** A slow way to a port: each byte arrives `delayMs` later, and at most `bytesPerSecond` of them. */
function slowLink(port, { delayMs, bytesPerSecond }) {
  /** Bytes on their way at most; then the sender waits. */
  const most = 64 * 1024;
  const way = (from, to) => {
    let free = 0, waiting = 0;
    // Timers of several lengths may fire in another order than they were set: each takes what is first in line.
    const line = [];
    const later = (step, ms) => {
      line.push(step);
      setTimeout(() => line.shift()(), ms);
    };
    from.on("data", (bytes) => {
      const now = performance.now();
      free = Math.max(free, now) + (bytes.length / bytesPerSecond) * 1000;
      waiting += bytes.length;
      if (waiting > most) from.pause();
      later(() => {
        waiting -= bytes.length;
        if (waiting <= most) from.resume();
        if (!to.destroyed) to.write(bytes);
      }, free - now + delayMs);
    });
    from.on("close", () => later(() => to.destroy(), Math.max(free - performance.now(), 0) + delayMs));
    from.on("error", () => to.destroy());
  };
  return new Promise((resolve) => {
    const listener = createServer((near) => {
      const far = connect(port, "127.0.0.1");
      way(near, far);
      way(far, near);
    });
    listener.listen(0, "127.0.0.1", () => resolve({ port: listener.address().port, close: () => listener.close() }));
  });
}

/** Runs a test with a server and a signed-in page. `slow`: over such a link. */
export async function withPage({ slow, ...options }, test) {
  const server = new Server();
  let link;
  try {
    await server.start();
    if (slow) link = await slowLink(server.port, slow);
    const port = link?.port ?? server.port;
    const signIn = server.link.replace(`:${server.port}/`, `:${port}/`);
    await inBrowser(signIn, options, (seen) => test({ server, ...seen }));
  } finally {
    link?.close();
    await server.end();
  }
}

/** Runs a test with a page signed in by a link, and fails it for what a page must never do. */
export async function inBrowser(signIn, options, test) {
  const { host } = new URL(signIn);
  let browser;
  try {
    browser = await chromium.launch({ executablePath: process.env.BERTH_TEST_CHROMIUM ?? "/usr/bin/chromium", headless: true, args: flags });
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    const page = await context.newPage();
    const bad = [];
    const allowed = { offline: false };
    page.on("console", (message) => {
      // While the server is away, the browser itself reports refused connections.
      const expected = allowed.offline && /ERR_CONNECTION_REFUSED|WebSocket connection|Failed to load resource/.test(message.text());
      if (message.type() === "error" && !expected) bad.push(`console: ${message.text()} ${message.location().url}`);
    });
    page.on("pageerror", (error) => bad.push(`error: ${error}`));
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (!["data:", "blob:"].includes(url.protocol) && url.host !== host) bad.push(`foreign request: ${url}`);
    });
    await page.addInitScript(() => addEventListener("securitypolicyviolation", (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`)));
    await page.goto(signIn);
    const confirm = page.getByRole("button", { name: /sign in|continue/i });
    const list = page.getByRole("heading", { name: "Sessions" });
    await confirm.or(list).first().waitFor();
    if (await confirm.isVisible()) await confirm.click();
    await list.waitFor();
    await test({ page, context, allowed });
    if (bad.length > 0) throw new Error(`the page must not:\n${bad.join("\n")}`);
  } finally {
    await browser?.close();
  }
}

/** Creates a session by the page; waits for its prompt. Answers its id. */
export async function createSession(page, name, prompt = "ready> ") {
  await page.getByRole("button", { name: "New session" }).click();
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByRole("button", { name: "Create", exact: true }).click();
  await page.waitForURL(/[0-9a-f]{8}-/);
  await waitForScreen(page, prompt);
  return page.url().match(/[0-9a-f]{8}-[0-9a-f-]{27}/)[0];
}

/** All lines of the terminal in sight, scrollback included, from xterm's own buffer. */
export function screen(page) {
  return page.evaluate(() => {
    const all = [...document.querySelectorAll("*")].filter((e) => e.xterm);
    const shown = all.find((e) => e.offsetParent !== null) ?? all[0];
    if (!shown) return "";
    const buffer = shown.xterm.buffer.active;
    let text = "";
    for (let n = 0; n < buffer.length; n++) {
      const line = buffer.getLine(n);
      text += (line.isWrapped || n === 0 ? "" : "\n") + line.translateToString(true);
    }
    return text;
  });
}

export async function waitForScreen(page, part) {
  let seen = "";
  try {
    return await eventually(part, async () => {
      seen = await screen(page);
      return (typeof part === "string" ? seen.includes(part) : part.test(seen)) && seen;
    });
  } catch {
    throw new Error(`no ${part} in the terminal:\n${seen}`);
  }
}

/** Puts the keyboard into the terminal in sight. */
export async function focusTerminal(page) {
  await page.locator("section[aria-label='Terminal']:not(.hidden) .xterm-helper-textarea").focus();
}

/** Types a line into the terminal in sight. */
export async function type(page, line) {
  await focusTerminal(page);
  await page.keyboard.type(line);
  await page.keyboard.press("Enter");
}

/** A file's text in the editor in sight. */
export function editorText(page) {
  return page.evaluate(() => {
    const lines = [...document.querySelectorAll(".cm-content .cm-line")];
    return lines.map((line) => line.textContent).join("\n");
  });
}

/** Waits until a file exists on disk; answers its bytes. */
export function onDisk(path, holds = () => true) {
  return eventually(`${path} on disk`, () => {
    if (!existsSync(path)) return false;
    const bytes = readFileSync(path);
    return holds(bytes) && bytes;
  });
}

/** A program that reads keys as they come and keeps them in a file: what a shell would have been typed. */
const KEYS = String.raw`import os, sys, tty
tty.setraw(0)
kept = open(sys.argv[1], "wb", 0)
os.write(1, b"keys, please\r\n")
if len(sys.argv) > 2:
    os.write(1, open(sys.argv[2], "rb").read())
while data := os.read(0, 65536):
    kept.write(data)
`;

/** Runs a program in the terminal in sight that keeps what it is typed; answers how to read that. */
export async function keepKeys(page, server, id, { says, shows = "keys, please" } = {}) {
  const folder = mkdtempSync(join(server.folder, "keys-"));
  const kept = join(folder, "typed");
  writeFileSync(join(folder, "keys.py"), KEYS);
  if (says) writeFileSync(join(folder, "says"), says);
  await type(page, `python3 ${join(folder, "keys.py")} ${kept}${says ? ` ${join(folder, "says")}` : ""}`);
  await waitForScreen(page, shows);
  return () => readFileSync(kept);
}

/** Opens a file from the tree. */
export async function open(page, name) {
  await page.getByRole("treeitem", { name: new RegExp(name.replaceAll(".", "\\.")) }).first().click();
  await page.getByRole("tab", { name: new RegExp(name.replaceAll(".", "\\.")) }).waitFor();
  await page.locator(".cm-content").waitFor();
}

/** Judges the page by axe, but for the rules in `except`. */
export async function judge(page, except = []) {
  await page.evaluate(axe);
  const rules = Object.fromEntries(except.map((rule) => [rule, { enabled: false }]));
  const { violations } = await page.evaluate((options) => window.axe.run(document, options), { resultTypes: ["violations"], rules });
  return violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.target.join(" ")).join(", ")}`);
}
