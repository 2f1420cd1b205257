// Measures what each part of the page costs to load, gzipped, and fails above its budget.
// Run after a build: `npm run build && npm run budgets`.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const dist = "dist";
const manifest = JSON.parse(readFileSync(join(dist, "manifest.json"), "utf8"));

/** Parts by their entry modules, what is loaded before them, and kilobytes (1,000 bytes). */
const parts = [
  { name: "shell and dashboard", entries: ["index.html"], loaded: [], budget: 45 },
  {
    name: "editor",
    entries: ["page/editor/buffer.ts", "page/editor/Editor.svelte"],
    loaded: ["index.html", "page/views/Workspace.svelte"],
    budget: 130,
  },
  {
    name: "terminal",
    entries: ["page/terminal/TerminalView.svelte"],
    loaded: ["index.html", "page/views/Workspace.svelte"],
    budget: 120,
  },
];

/** Every file that loading a chunk loads: itself, what it imports at once, and styles. */
function filesOf(key, found = new Set(), seen = new Set()) {
  if (seen.has(key)) return found;
  seen.add(key);
  const chunk = manifest[key];
  if (!chunk) throw new Error(`${key} is not in the build`);
  for (const file of [chunk.file, ...(chunk.css ?? [])]) found.add(file);
  for (const other of chunk.imports ?? []) filesOf(other, found, seen);
  return found;
}

let over = false;
for (const { name, entries, loaded, budget } of parts) {
  const before = new Set(loaded.flatMap((key) => [...filesOf(key)]));
  const files = new Set(entries.flatMap((key) => [...filesOf(key)]).filter((file) => !before.has(file)));
  const bytes = [...files].reduce((sum, file) => sum + gzipSync(readFileSync(join(dist, file)), { level: 9 }).length, 0);
  const kB = bytes / 1000;
  over ||= kB > budget;
  console.log(`${name.padEnd(22)} ${kB.toFixed(1).padStart(6)} kB of ${budget}${kB > budget ? "  OVER" : ""}`);
}
process.exitCode = over ? 1 : 0;
