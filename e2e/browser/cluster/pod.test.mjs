// What a user does who is given a machine in a cluster: the way of k8s/README.md, by a forwarded port and a link.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { test } from "node:test";
import { createSession, editorText, eventually, inBrowser, open, type, waitForScreen } from "../harness.mjs";

const kubectl = (...words) => execFileSync("kubectl", words, { encoding: "utf8" });

/** The server's port on this machine, for as long as `work` takes. */
async function forwarded(work) {
  const child = spawn("kubectl", ["-n", "berth", "port-forward", "service/berth-control-plane", ":80"], { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (bytes) => (out += bytes));
  try {
    await work(await eventually("the port is forwarded", () => out.match(/127\.0\.0\.1:(\d+)/)?.[1]));
  } finally {
    child.kill();
  }
}

test("a machine in the cluster: terminal, files in both directions, and what is saved is what runs", { timeout: 300_000 }, () =>
  forwarded(async (port) => {
    const link = kubectl("-n", "berth", "exec", "deployment/berth-control-plane", "--", "/control-plane", "sign-in-link");
    const token = link.trim().split("?")[1];
    await inBrowser(`http://127.0.0.1:${port}/sign-in?${token}`, {}, async ({ page }) => {
      // As bash writes it in the image.
      const id = await createSession(page, `browser-${process.pid}`, "$ ");
      try {
        await type(page, "id -u; pwd");
        await waitForScreen(page, "1000\n/app\n");
        await type(page, "echo 'print(0)' > main.py");
        await open(page, "main.py");
        await page.locator(".cm-content").click();
        await page.keyboard.press("Control+A");
        await page.keyboard.type('import pandas; print("answer", 6 * 7)');
        await page.keyboard.press("Control+S");
        await type(page, "python3 main.py");
        await waitForScreen(page, "answer 42");
        await type(page, "sed -i s/answer/edited/ main.py");
        await eventually("the editor follows", async () => (await editorText(page)).includes('print("edited", 6 * 7)'));
        if (process.env.BERTH_TEST_SCREENSHOTS) await page.screenshot({ path: `${process.env.BERTH_TEST_SCREENSHOTS}/pod.png` });
        const pods = JSON.parse(kubectl("-n", "berth-sessions", "get", "pods", "-l", `berth/session=${id}`, "-o", "json"));
        assert.equal(pods.items.length, 1);
      } finally {
        const headers = { authorization: `Bearer ${process.env.BERTH_E2E_CLUSTER_TOKEN}` };
        const gone = await fetch(`http://127.0.0.1:${port}/api/sessions/${id}`, { method: "DELETE", headers });
        assert.ok(gone.ok, `${gone.status}`);
      }
    });
  }));
