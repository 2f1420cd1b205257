// How every page and state looks and reads: accessible in both schemes, and on a small touch screen.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createSession, eventually, judge, open, type, waitForScreen, withPage } from "./harness.mjs";

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
