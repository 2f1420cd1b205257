// What a file's language is called, for the status bar; the editor itself knows more.

import { extensionOf, nameOf } from "./paths";

const names: Record<string, string> = {
  py: "Python", pyi: "Python", js: "JavaScript", mjs: "JavaScript", cjs: "JavaScript", jsx: "JavaScript", ts: "TypeScript",
  mts: "TypeScript", tsx: "TypeScript", rs: "Rust", json: "JSON", md: "Markdown", html: "HTML", htm: "HTML", svelte: "Svelte",
  vue: "Vue", css: "CSS", sh: "Shell", bash: "Shell", zsh: "Shell", yml: "YAML", yaml: "YAML", toml: "TOML", go: "Go",
  rb: "Ruby", sql: "SQL", c: "C", h: "C", cc: "C++", cpp: "C++", hpp: "C++", java: "Java", cs: "C#", kt: "Kotlin",
};

export function languageName(path: string): string {
  const name = nameOf(path).toLowerCase();
  if (name === "dockerfile" || name === "containerfile") return "Dockerfile";
  return names[extensionOf(path)] ?? "Plain text";
}
