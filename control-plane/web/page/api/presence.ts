// Whether the server still knows who asks: told to all who have to stop, and to
// all who can go on.

type Listener = () => void;

class News {
  #listeners = new Set<Listener>();

  /** Answers how to stop being told. */
  on(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

/** An answer said that nobody is signed in. */
export const signedOut = new News();
/** The same person is signed in again. */
export const signedIn = new News();
