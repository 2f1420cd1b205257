import { beforeEach, describe, expect, it, vi } from "vitest";

/** Who the server says is signed in; nobody: 401. */
let name: string | undefined;
const reload = vi.fn();

async function freshApp() {
  vi.resetModules();
  return { ...(await import("../page/state/app.svelte")), ...(await import("../page/api/presence")) };
}

beforeEach(() => {
  name = "ada";
  reload.mockClear();
  vi.stubGlobal("location", { pathname: "/", search: "", origin: "http://here", reload });
  vi.stubGlobal("addEventListener", () => undefined);
  vi.stubGlobal("fetch", async () => (name ? Response.json({ name }) : Response.json({ code: "not_signed_in" }, { status: 401 })));
  return () => vi.unstubAllGlobals();
});

describe("a sign-in", () => {
  it("that ends keeps what is shown, and all go on once the same person is back", async () => {
    const { app, signedIn } = await freshApp();
    const told = vi.fn();
    signedIn.on(told);
    await app.load();
    name = undefined;
    await app.load();
    expect([app.user?.name, app.expired, app.problem, told.mock.calls.length]).toEqual(["ada", true, undefined, 0]);
    name = "ada";
    await app.load();
    expect([app.expired, told.mock.calls.length, reload.mock.calls.length]).toEqual([false, 1, 0]);
  });

  it("of somebody else begins with a page of their own", async () => {
    const { app, signedIn } = await freshApp();
    const told = vi.fn();
    signedIn.on(told);
    await app.load();
    name = undefined;
    await app.load();
    name = "grace";
    await app.load();
    expect([reload.mock.calls.length, told.mock.calls.length, app.expired]).toEqual([1, 0, true]);
  });

  it("that never was is asked for plainly", async () => {
    const { app } = await freshApp();
    name = undefined;
    await app.load();
    expect([app.user, app.expired]).toEqual([null, false]);
  });
});
