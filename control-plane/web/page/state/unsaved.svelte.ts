// Before text goes that the server does not have: it is saved, and where that
// fails a person is asked.

/** What can be lost: a document, as far as this is concerned. */
export interface Losable {
  readonly dirty: boolean;
  /** True if the text is on the server now. */
  save(): Promise<boolean>;
}

/** A person who wants to go on waits at most this long for saves, in milliseconds. */
export const SAVE_MS = 3_000;

export class Unsaved<Doc extends Losable> {
  /** What would be lost: the question that stands. */
  asked = $state.raw<Doc[] | undefined>();
  #answer: ((letGo: boolean) => void) | undefined;

  /** Saves what is edited; whether these may be closed, which a person decides if something could not be saved. */
  async mayLetGo(documents: Doc[]): Promise<boolean> {
    const edited = documents.filter((doc) => doc.dirty);
    if (edited.length === 0) return true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, SAVE_MS)));
    await Promise.race([late, Promise.all(edited.map(saveAll))]);
    clearTimeout(timer);
    const lost = edited.filter((doc) => doc.dirty);
    return lost.length === 0 || this.#ask(lost);
  }

  answer(letGo: boolean): void {
    this.#answer?.(letGo);
    this.#answer = undefined;
    this.asked = undefined;
  }

  #ask(lost: Doc[]): Promise<boolean> {
    // Only the latest wish is asked about.
    this.answer(false);
    this.asked = lost;
    return new Promise((resolve) => (this.#answer = resolve));
  }
}

/** Also what is typed while a save is on its way. */
async function saveAll(doc: Losable): Promise<void> {
  while (doc.dirty && (await doc.save()));
}
