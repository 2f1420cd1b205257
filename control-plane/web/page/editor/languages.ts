// Which language a file is in; each is fetched when first needed.

import { StreamLanguage } from "@codemirror/language";
import type { Extension } from "@codemirror/state";
import { extensionOf, nameOf } from "../lib/paths";

interface Language {
  name: string;
  load: () => Promise<Extension>;
}

const stream = (parser: Parameters<typeof StreamLanguage.define>[0]) => StreamLanguage.define(parser);

const python: Language = { name: "Python", load: async () => (await import("@codemirror/lang-python")).python() };
const shell: Language = { name: "Shell", load: async () => stream((await import("@codemirror/legacy-modes/mode/shell")).shell) };
const json: Language = { name: "JSON", load: async () => (await import("@codemirror/lang-json")).json() };
const html: Language = { name: "HTML", load: async () => (await import("@codemirror/lang-html")).html() };
const markdown: Language = { name: "Markdown", load: async () => (await import("@codemirror/lang-markdown")).markdown() };
const yaml: Language = { name: "YAML", load: async () => stream((await import("@codemirror/legacy-modes/mode/yaml")).yaml) };
const toml: Language = { name: "TOML", load: async () => stream((await import("@codemirror/legacy-modes/mode/toml")).toml) };
const go: Language = { name: "Go", load: async () => stream((await import("@codemirror/legacy-modes/mode/go")).go) };
const ruby: Language = { name: "Ruby", load: async () => stream((await import("@codemirror/legacy-modes/mode/ruby")).ruby) };
const docker: Language = {
  name: "Dockerfile",
  load: async () => stream((await import("@codemirror/legacy-modes/mode/dockerfile")).dockerFile),
};
const css: Language = { name: "CSS", load: async () => (await import("@codemirror/lang-css")).css() };
const rust: Language = { name: "Rust", load: async () => (await import("@codemirror/lang-rust")).rust() };
const clike = (name: string, mode: "c" | "cpp" | "java" | "csharp" | "kotlin"): Language => ({
  name,
  load: async () => stream((await import("@codemirror/legacy-modes/mode/clike"))[mode]),
});
const script = (name: string, typescript: boolean, jsx: boolean): Language => ({
  name,
  load: async () => (await import("@codemirror/lang-javascript")).javascript({ typescript, jsx }),
});
const sql: Language = {
  name: "SQL",
  load: async () => stream((await import("@codemirror/legacy-modes/mode/sql")).standardSQL),
};

const byExtension: Record<string, Language> = {
  py: python, pyi: python, pyw: python,
  js: script("JavaScript", false, true), mjs: script("JavaScript", false, false), cjs: script("JavaScript", false, false),
  jsx: script("JavaScript", false, true), ts: script("TypeScript", true, false), mts: script("TypeScript", true, false),
  tsx: script("TypeScript", true, true),
  rs: rust, json, jsonc: json, webmanifest: json, md: markdown, markdown, html, htm: html, svelte: html, vue: html, css,
  sh: shell, bash: shell, zsh: shell, env: shell, yml: yaml, yaml, toml, go, rb: ruby, sql,
  c: clike("C", "c"), h: clike("C", "c"), cc: clike("C++", "cpp"), cpp: clike("C++", "cpp"), hpp: clike("C++", "cpp"),
  java: clike("Java", "java"), cs: clike("C#", "csharp"), kt: clike("Kotlin", "kotlin"),
};

const byName: Record<string, Language> = {
  dockerfile: docker,
  containerfile: docker,
  "cargo.lock": toml,
  gemfile: ruby,
  rakefile: ruby,
  ".bashrc": shell,
  ".profile": shell,
};

export function languageOf(path: string): Language | undefined {
  return byName[nameOf(path).toLowerCase()] ?? byExtension[extensionOf(path)];
}
