// A document's text as CodeMirror holds it: it lives on while its tab is in the
// background, with cursor, undo history and scroll position.

import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { bracketMatching, foldGutter, foldKeymap, indentOnInput, indentUnit } from "@codemirror/language";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { Annotation, Compartment, EditorState, Transaction, type StateEffect, type TransactionSpec } from "@codemirror/state";
import {
  crosshairCursor,
  drawSelection,
  dropCursor,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  keymap,
  lineNumbers,
  rectangularSelection,
} from "@codemirror/view";
import { nonce } from "../lib/csp";
import type { Edit } from "../lib/diff";
import type { TextForm } from "../lib/text-file";
import type { Buffer, Document } from "../state/document.svelte";
import { languageOf } from "./languages";
import { theme } from "./theme";

/** Changes made by the server's text, not by the user. */
const fromOutside = Annotation.define<boolean>();

export class EditorBuffer implements Buffer {
  state: EditorState;
  #view: EditorView | undefined;
  #scroll: StateEffect<unknown> | undefined;
  #language = new Compartment();

  constructor(
    private readonly doc: Document,
    text: string,
    form: TextForm,
    private readonly moved: (line: number, column: number) => void,
  ) {
    this.state = EditorState.create({ doc: text, extensions: [this.#extensions(form)] });
    void languageOf(doc.path)
      ?.load()
      .then((language) => this.#dispatch({ effects: this.#language.reconfigure(language) }));
  }

  text(): string {
    return this.state.doc.toString();
  }

  apply(list: Edit[], undoable: boolean): void {
    this.#dispatch({
      changes: list,
      annotations: undoable ? [] : [fromOutside.of(true), Transaction.addToHistory.of(false)],
    });
  }

  /** Shows the buffer in a view; whatever was shown there goes to the background. */
  attach(view: EditorView): void {
    this.#view = view;
    view.setState(this.state);
    if (this.#scroll) view.dispatch({ effects: this.#scroll });
    this.#tellPlace();
  }

  detach(): void {
    this.#scroll = this.#view?.scrollSnapshot();
    this.#view = undefined;
  }

  goTo(line: number, column: number): void {
    const at = this.state.doc.line(Math.min(Math.max(1, line), this.state.doc.lines));
    const anchor = Math.min(at.to, at.from + Math.max(0, column - 1));
    this.#dispatch({ selection: { anchor }, effects: EditorView.scrollIntoView(anchor, { y: "center" }) });
  }

  destroy(): void {
    this.#view = undefined;
  }

  #dispatch(spec: TransactionSpec): void {
    if (this.#view) this.#view.dispatch(spec);
    else this.#take(this.state.update(spec));
  }

  #take(transaction: Transaction): void {
    this.state = transaction.state;
    if (transaction.docChanged && !transaction.annotation(fromOutside)) this.doc.edited();
  }

  #tellPlace(): void {
    const head = this.state.selection.main.head;
    const line = this.state.doc.lineAt(head);
    this.moved(line.number, head - line.from + 1);
  }

  #extensions(form: TextForm) {
    return [
      EditorView.cspNonce.of(nonce),
      // In a file of mixed line ends every "\r" stays a visible character, so that no byte changes unseen.
      form.lineEnd === "mixed" ? EditorState.lineSeparator.of("\n") : [],
      lineNumbers(),
      highlightActiveLineGutter(),
      highlightSpecialChars(),
      history(),
      foldGutter(),
      drawSelection(),
      dropCursor(),
      EditorState.allowMultipleSelections.of(true),
      indentOnInput(),
      bracketMatching(),
      closeBrackets(),
      autocompletion(),
      rectangularSelection(),
      crosshairCursor(),
      highlightActiveLine(),
      highlightSelectionMatches(),
      search({ top: true }),
      indentUnit.of("    "),
      keymap.of([
        { key: "Mod-s", run: () => (void this.doc.save(), true), preventDefault: true },
        ...closeBracketsKeymap,
        ...defaultKeymap,
        ...searchKeymap,
        ...historyKeymap,
        ...foldKeymap,
        ...completionKeymap,
        indentWithTab,
      ]),
      EditorView.contentAttributes.of({ "aria-label": `Editor, ${this.doc.path}`, spellcheck: "false", tabindex: "0" }),
      EditorView.domEventHandlers({ blur: () => void (this.doc.dirty && this.doc.save()) }),
      EditorView.updateListener.of((update) => {
        for (const transaction of update.transactions) this.#take(transaction);
        if (update.selectionSet || update.docChanged) this.#tellPlace();
      }),
      this.#language.of([]),
      theme,
    ];
  }
}

