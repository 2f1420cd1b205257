// The editor's looks, from the page's tokens.

import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { EditorView } from "@codemirror/view";
import { tags as t } from "@lezer/highlight";

const view = EditorView.theme({
  "&": { height: "100%", color: "var(--fg)", backgroundColor: "var(--bg0)", fontSize: "13px" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.5" },
  ".cm-content": { caretColor: "var(--accent)", padding: "8px 0 40vh" },
  ".cm-cursor, .cm-dropCursor": { borderLeftColor: "var(--accent)", borderLeftWidth: "2px" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground, ::selection": {
    backgroundColor: "var(--select)",
  },
  ".cm-gutters": { backgroundColor: "var(--bg0)", color: "var(--muted)", border: "none" },
  ".cm-lineNumbers .cm-gutterElement": { padding: "0 8px 0 12px", minWidth: "36px" },
  ".cm-activeLine": { backgroundColor: "color-mix(in srgb, var(--bg2) 45%, transparent)" },
  ".cm-activeLineGutter": { backgroundColor: "transparent", color: "var(--fg)" },
  ".cm-foldPlaceholder": { background: "var(--bg2)", border: "1px solid var(--line)", color: "var(--muted)" },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": { backgroundColor: "var(--select)", outline: "1px solid var(--accent)" },
  ".cm-selectionMatch": { backgroundColor: "var(--select)" },
  ".cm-searchMatch": { backgroundColor: "color-mix(in srgb, var(--warn) 30%, transparent)" },
  ".cm-searchMatch-selected": { backgroundColor: "color-mix(in srgb, var(--warn) 60%, transparent)" },
  ".cm-panels": { backgroundColor: "var(--bg1)", color: "var(--fg)", borderColor: "var(--line)" },
  ".cm-panels.cm-panels-top": { borderBottom: "1px solid var(--line)" },
  ".cm-panel.cm-search": { padding: "6px 8px", font: "13px/20px var(--font)" },
  ".cm-panel.cm-search label": { fontSize: "12px" },
  ".cm-textfield": { background: "var(--bg0)", border: "1px solid var(--control)", borderRadius: "var(--radius)", height: "26px" },
  ".cm-button": { backgroundImage: "none", background: "var(--bg2)", border: "1px solid var(--line)", borderRadius: "var(--radius)" },
  ".cm-tooltip": { background: "var(--bg1)", border: "1px solid var(--line)", borderRadius: "var(--radius)", boxShadow: "var(--shadow)" },
  ".cm-tooltip-autocomplete > ul > li[aria-selected]": { background: "var(--accent)", color: "var(--on-accent)" },
});

/** Colours that keep 4.5:1 on both backgrounds come from the page's custom properties. */
const highlight = HighlightStyle.define([
  { tag: [t.keyword, t.modifier, t.operatorKeyword, t.controlKeyword], color: "var(--syntax-keyword)" },
  { tag: [t.string, t.special(t.string), t.regexp], color: "var(--syntax-string)" },
  { tag: [t.comment, t.lineComment, t.blockComment, t.docComment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [t.number, t.bool, t.null, t.atom, t.constant(t.name)], color: "var(--syntax-number)" },
  { tag: [t.function(t.variableName), t.function(t.propertyName), t.macroName], color: "var(--syntax-function)" },
  { tag: [t.typeName, t.className, t.namespace, t.tagName], color: "var(--syntax-type)" },
  { tag: [t.propertyName, t.attributeName, t.definition(t.propertyName)], color: "var(--syntax-property)" },
  { tag: t.heading, fontWeight: "600", color: "var(--syntax-property)" },
  { tag: [t.link, t.url], color: "var(--accent)", textDecoration: "underline" },
  { tag: t.emphasis, fontStyle: "italic" },
  { tag: t.strong, fontWeight: "600" },
  { tag: t.invalid, color: "var(--error)" },
]);

export const theme = [view, syntaxHighlighting(highlight)];
