// A session's end that comes soon, as a person is told of it.

import type { Ending } from "../api/sessions";

/** "4 min", "50 s": what is left, never less than nothing. */
export function left(at: string, now: number): string {
  const seconds = Math.max(0, Math.ceil((Date.parse(at) - now) / 1000));
  return seconds >= 100 ? `${Math.round(seconds / 60)} min` : `${seconds} s`;
}

/** What a bar says of the end. */
export function endingText({ at, cause }: Ending, now: number): string {
  const clock = new Date(at).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  const why = cause === "idle" ? "because nothing happens in it" : "because its lifetime is over";
  return `Stops in ${left(at, now)}, at ${clock}, ${why}. Files are kept.`;
}
