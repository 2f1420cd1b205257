// Short messages at the page's corner: what happened and, where there is one, what to do.

import type { Problem } from "../api/problem";

/** A message without an action stays this long, in milliseconds. */
const STAY_MS = 6_000;

export interface Toast {
  id: number;
  text: string;
  tone: "info" | "error";
  requestId?: string | undefined;
  action?: { label: string; run: () => void } | undefined;
  about?: string | undefined;
}

class Toasts {
  list = $state<Toast[]>([]);
  #next = 1;

  /** One with the same `about` takes the earlier one's place. */
  say(text: string, action?: Toast["action"], about?: string): void {
    if (about) this.list = this.list.filter((toast) => toast.about !== about);
    this.#add({ text, tone: "info", action, about }, STAY_MS * (action ? 2 : 1));
  }

  /** `what` failed: shown with the server's sentence and request id until closed. */
  fail(what: string, problem: Problem): void {
    this.#add({ text: `${what}: ${problem.message}`, tone: "error", requestId: problem.requestId }, STAY_MS * 3);
  }

  close(id: number): void {
    this.list = this.list.filter((toast) => toast.id !== id);
  }

  #add(toast: Omit<Toast, "id">, stay: number): void {
    const id = this.#next++;
    this.list = [...this.list.slice(-3), { ...toast, id }];
    setTimeout(() => this.close(id), stay);
  }
}

export const toasts = new Toasts();
