// Looking at what files were: a version alone, or beside the file as it is now.

import { Problem } from "../api/problem";
import { versionBytes, type Version } from "../api/history";
import { decode } from "../lib/text-file";
import { toasts } from "./toasts.svelte";

/** Texts to look at: one, or two side by side. */
export interface Shown {
  title: string;
  left: { name: string; text: string };
  right?: { name: string; text: string };
}

export class Versions {
  shown = $state.raw<Shown | undefined>();

  constructor(
    private readonly uuid: string,
    /** A file's text as it is now, edits included. */
    private readonly textNow: (path: string) => Promise<string>,
  ) {}

  /** Shows a version alone. */
  look(version: Version, name: string): Promise<void> {
    return this.#show(version, async (text) => ({ title: version.path, left: { name, text } }));
  }

  /** Shows a version beside the text that its path has now. */
  compare(version: Version, path: string, names: { then: string; now: string }): Promise<void> {
    return this.#show(version, async (text) => ({
      title: path,
      left: { name: names.then, text },
      right: { name: names.now, text: await this.textNow(path) },
    }));
  }

  async #show(version: Version, make: (text: string) => Promise<Shown>): Promise<void> {
    try {
      const text = decode(await versionBytes(this.uuid, version.version))?.text;
      if (text === undefined) toasts.say(`${version.path} was not text then. Download it instead.`);
      else this.shown = await make(text);
    } catch (error) {
      toasts.fail("The version could not be read", Problem.from(error));
    }
  }
}
