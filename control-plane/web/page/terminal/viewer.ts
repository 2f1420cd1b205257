// This tab's name as a viewer, kept over reloads, so that typed keys are
// numbered on; a duplicated tab gets a name of its own.

const KEY = "berth:viewer";

export async function viewerName(): Promise<string> {
  const kept = sessionStorage.getItem(KEY);
  if (kept && (await claim(kept))) return kept;
  const fresh = `web-${randomName()}`;
  sessionStorage.setItem(KEY, fresh);
  await claim(fresh);
  return fresh;
}

let claimed: Promise<string> | undefined;

/** The same name for every terminal of this page. */
export function thisViewer(): Promise<string> {
  claimed ??= viewerName();
  return claimed;
}

function randomName(): string {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** Holds the name's lock until this page goes away; false if another tab has it. */
function claim(name: string): Promise<boolean> {
  if (!("locks" in navigator)) return Promise.resolve(true);
  return new Promise((resolve) => {
    const patience = AbortSignal.timeout(300);
    navigator.locks
      .request(`berth:${name}`, { signal: patience }, () => {
        resolve(true);
        return new Promise(() => undefined);
      })
      .catch(() => resolve(false));
  });
}
