import { afterEach, describe, expect, it, vi } from "vitest";
import { encodePath, moved, parsePlace, whyBadPath } from "../page/lib/paths";
import { parseRoute, workspaceUrl } from "../page/lib/route";
import { decode, encode } from "../page/lib/text-file";
import { rowsInView, Tree, type Item } from "../page/lib/tree";
import { WorkspaceFiles } from "../page/state/files.svelte";

const item = (path: string, kind: Item["kind"] = "file", rev = 1): Item => ({ path, kind, rev, mode: 0o644, size: 0 });
const raw = (text: string) => new TextEncoder().encode(text);

describe("a text file", () => {
  it.each([
    ["line feeds", "a\nb\n", "LF"],
    ["carriage returns", "a\r\nb\r\n", "CRLF"],
    ["both", "a\r\nb\nc\rd", "mixed"],
    ["no last newline", "a\nb", "LF"],
    ["emoji and accents", "é 😀\n", "LF"],
    ["a byte order mark", "\ufeffa\n", "LF"],
    ["nothing", "", "LF"],
  ])("with %s is written back byte for byte", (_, content, lineEnd) => {
    const bytes = raw(content);
    const file = decode(bytes);
    expect(file?.lineEnd).toBe(lineEnd);
    expect(file && encode(file.text, file)).toEqual(bytes);
  });

  it("is not what has a NUL or is not UTF-8", () => {
    expect(decode(new Uint8Array([97, 0, 98]))).toBeUndefined();
    expect(decode(new Uint8Array([0xff, 0xfe, 97]))).toBeUndefined();
  });
});

describe("the tree", () => {
  it("shows folders first, then names as a person counts", () => {
    const tree = new Tree();
    tree.replace(3, [item("b10.txt"), item("b9.txt"), item("src", "dir"), item("src/a.py"), item("A.md")]);
    expect(tree.rows(new Set()).map((r) => r.name)).toEqual(["src", "A.md", "b9.txt", "b10.txt"]);
    expect(tree.rows(new Set(["src"])).map((r) => [r.name, r.level, r.place, r.siblings])).toEqual([
      ["src", 1, 1, 4],
      ["a.py", 2, 1, 1],
      ["A.md", 1, 2, 4],
      ["b9.txt", 1, 3, 4],
      ["b10.txt", 1, 4, 4],
    ]);
  });

  it("follows changes and deletions, and does not go back in time", () => {
    const tree = new Tree();
    tree.replace(1, [item("a"), item("d", "dir"), item("d/x")]);
    tree.update(5, [{ ...item("a", "file", 5), deleted: true }, item("n", "file", 5)]);
    tree.update(4, [item("n", "file", 4)]);
    expect(tree.rows(new Set(["d"])).map((r) => r.path)).toEqual(["d", "d/x", "n"]);
    expect([tree.rev, tree.items.get("n")?.rev]).toEqual([5, 5]);
  });

  it("moves a path that turned from a file into a folder to its place", () => {
    const tree = new Tree();
    tree.replace(1, [item("a"), item("b")]);
    tree.update(2, [item("b", "dir", 2)]);
    expect(tree.rows(new Set()).map((r) => r.path)).toEqual(["b", "a"]);
  });

  it("draws only the rows in view", () => {
    expect(rowsInView(2400, 600, 24, 50_000, 10)).toEqual({ first: 90, last: 135 });
    expect(rowsInView(0, 600, 24, 3, 10)).toEqual({ first: 0, last: 3 });
    expect(rowsInView(99_999, 600, 24, 3, 10)).toEqual({ first: 3, last: 3 });
  });
});

describe("the workspace's files", () => {
  afterEach(() => void vi.unstubAllGlobals());

  it("lose what a whole tree has no more, and say so, when the server cannot tell what changed", async () => {
    const answers = [
      { rev: 9, complete: true, items: [item("a"), item("d", "dir"), item("d/x"), item("stays")] },
      { rev: 40, complete: true, items: [item("stays"), item("new", "file", 40)] },
      { rev: 3, complete: true, items: [item("stays")] },
    ];
    const asked: string[] = [];
    vi.stubGlobal("fetch", async (url: string) => (asked.push(url), Response.json(answers.shift())));
    const told: string[] = [];
    const files = new WorkspaceFiles("w", (items) => told.push(...items.map(({ path, deleted }) => (deleted ? `${path} gone` : path))));
    await files.refresh();
    const { version } = files;
    await files.refresh(40);
    expect(asked.at(-1)).toContain("since=9");
    expect([...files.tree.items.keys()]).toEqual(["stays", "new"]);
    expect(files.tree.rows(new Set(["d"])).map((row) => row.path)).toEqual(["new", "stays"]);
    expect(told.sort()).toEqual(["a gone", "d gone", "d/x gone", "new", "stays"]);
    expect(files.version).toBeGreaterThan(version);

    // Also back to an older history.
    await files.refresh();
    expect([files.tree.rev, [...files.tree.items.keys()]]).toEqual([3, ["stays"]]);
  });
});

describe("paths", () => {
  it("that the server would refuse are refused while they are typed", () => {
    for (const bad of ["", "/etc/passwd", "a//b", "../up", "a/./b", "a\0b", "x".repeat(256), "é".repeat(128)]) {
      expect(whyBadPath(bad), bad).toBeTypeOf("string");
    }
    for (const good of ["a", "src/main.py", "…", "x".repeat(255), ".env"]) expect(whyBadPath(good), good).toBeUndefined();
  });

  it("are encoded part by part", () => {
    expect(encodePath("a b/100%/ü#?.txt")).toBe("a%20b/100%25/%C3%BC%23%3F.txt");
  });

  it("follow their folder when it is renamed", () => {
    expect(moved("src/a/b.py", "src", "lib")).toBe("lib/a/b.py");
    expect(moved("src", "src", "lib")).toBe("lib");
  });

  it("can name a line and a column", () => {
    expect(parsePlace("src/main.py:12:4")).toEqual({ path: "src/main.py", line: 12, column: 4 });
    expect(parsePlace("main.py")).toEqual({ path: "main.py" });
  });

  it("survive the address bar", () => {
    const uuid = "0190b1f2-0000-7000-8000-000000000000";
    const url = new URL(workspaceUrl(uuid, "a b/ü&=#.py:12", "t1"), "http://x");
    expect(parseRoute(url.pathname, url.search)).toEqual({ view: "workspace", uuid, file: "a b/ü&=#.py:12", terminal: "t1" });
  });
});
