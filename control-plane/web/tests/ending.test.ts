import { describe, expect, it } from "vitest";
import { endingText, left } from "../page/lib/ending";
import { changeOf, faultOf, rowsOf, type Row } from "../page/lib/environment";

describe("the end that comes", () => {
  const at = "2026-01-01T12:05:00Z";
  const before = (seconds: number) => Date.parse(at) - seconds * 1000;

  it("is said in minutes, then in seconds, and is never past", () => {
    expect([300, 240, 100, 99, 1, 0, -9].map((s) => left(at, before(s)))).toEqual(["5 min", "4 min", "2 min", "99 s", "1 s", "0 s", "0 s"]);
  });

  it("says why, and that nothing is lost", () => {
    expect(endingText({ at, cause: "idle" }, before(240))).toMatch(/^Stops in 4 min, at .*nothing happens in it\. Files are kept\.$/);
    expect(endingText({ at, cause: "lifetime" }, before(240))).toContain("lifetime");
  });
});

describe("edited variables and secrets", () => {
  const before = { variables: { A: "1" }, secrets: ["OLD", "TOKEN"] };
  const row = (more: Partial<Row>): Row => ({ id: -1, name: "", value: "", secret: false, kept: false, ...more });

  it("come to no change of secrets when nothing is touched", () => {
    expect(changeOf(rowsOf(before), before)).toEqual({ variables: { A: "1" }, secrets: {} });
  });

  it("name what is new, replaced and removed, and nothing else", () => {
    const rows = rowsOf(before).filter((r) => r.name !== "OLD" && r.name !== "A");
    rows.find((r) => r.name === "TOKEN")!.value = "t-2";
    rows.push(row({ name: " B ", value: "2" }), row({ name: "KEY", value: "k", secret: true }), row({}));
    expect(changeOf(rows, before)).toEqual({ variables: { B: "2" }, secrets: { OLD: null, TOKEN: "t-2", KEY: "k" } });
  });

  it("turn a secret into a variable in one step", () => {
    const rows = [...rowsOf(before).filter((r) => r.name !== "OLD"), row({ name: "OLD", value: "plain" })];
    expect(changeOf(rows, before)).toEqual({ variables: { A: "1", OLD: "plain" }, secrets: { OLD: null } });
  });

  it("are refused in words before they are sent", () => {
    const two = [row({ name: "A", value: "1" }), row({ name: "A", value: "2" })];
    expect(faultOf(two[0]!, two)).toMatch(/twice/);
    for (const bad of [row({ value: "x" }), row({ name: "1A" }), row({ name: "a-b" }), row({ name: "BERTH_X" }), row({ name: "S", secret: true })]) {
      expect(faultOf(bad, [bad]), bad.name).toBeDefined();
    }
    for (const good of [row({}), row({ name: "PATH", value: "" }), row({ name: "S", secret: true, kept: true })]) {
      expect(faultOf(good, [good]), good.name).toBeUndefined();
    }
  });
});
