// Who is signed in and which view is shown.

import { signedIn, signedOut } from "../api/presence";
import { Problem } from "../api/problem";
import * as sessions from "../api/sessions";
import { parseRoute, type Route } from "../lib/route";

class App {
  /** `undefined` until the server has said. */
  user = $state<{ name: string } | null | undefined>(undefined);
  /** The user's sign-in ended in the middle of things: what is shown stays, and waits for another. */
  expired = $state(false);
  problem = $state<Problem | undefined>(undefined);
  route = $state.raw<Route>(parseRoute(location.pathname, location.search));
  /** The address of what is shown. */
  #address = location.pathname + location.search;
  #mayLeave: (() => Promise<boolean>) | undefined;
  /** Counts where somebody wanted to go. */
  #step = 0;

  constructor() {
    signedOut.on(() => {
      if (this.user) this.expired = true;
      else this.user = null;
    });
    addEventListener("popstate", () => void this.#wentTo(location.pathname + location.search));
  }

  async load(): Promise<void> {
    this.problem = undefined;
    try {
      const user = await sessions.me();
      // What is on the page is another's.
      if (this.user && this.user.name !== user.name) return location.reload();
      this.user = user;
      if (!this.expired) return;
      this.expired = false;
      signedIn.tell();
    } catch (error) {
      const problem = Problem.from(error);
      if (problem.status !== 401) this.problem = problem;
    }
  }

  /** `mayLeave` is asked before the view that is shown goes; answers how to stop that. */
  guard(mayLeave: () => Promise<boolean>): () => void {
    this.#mayLeave = mayLeave;
    return () => {
      if (this.#mayLeave === mayLeave) this.#mayLeave = undefined;
    };
  }

  /** Shows another view, as a link would. */
  async go(url: string): Promise<void> {
    if (!(await this.#leaves(routeOf(url)))) return;
    history.pushState(null, "", url);
    this.#show(url);
  }

  /** What is shown has this address now: no step in the browser's history. */
  standAt(url: string): void {
    // A step back that is being asked about has another address until it is decided.
    if (this.#address === location.pathname + location.search) history.replaceState(null, "", url);
    this.#address = url;
  }

  /** The browser went back or forward, and shows that address already. */
  async #wentTo(url: string): Promise<void> {
    const step = this.#step + 1;
    if (await this.#leaves(routeOf(url))) return this.#show(url);
    // A later step has the word, if there was one.
    if (step === this.#step) history.pushState(null, "", this.#address);
  }

  #show(url: string): void {
    this.#address = url;
    this.route = routeOf(url);
  }

  /** Whether another view may take the place of the one shown; not if yet another was wanted meanwhile. */
  async #leaves(to: Route | undefined): Promise<boolean> {
    const step = (this.#step += 1);
    const { route } = this;
    const stays = to?.view === route.view && (to.view !== "workspace" || (route.view === "workspace" && to.uuid === route.uuid));
    const may = stays || !this.#mayLeave || (await this.#mayLeave());
    return may && step === this.#step;
  }

  async signOut(): Promise<void> {
    if (!(await this.#leaves(undefined))) return;
    await sessions.signOut();
    this.user = null;
    this.expired = false;
  }
}

function routeOf(url: string): Route {
  const { pathname, search } = new URL(url, location.origin);
  return parseRoute(pathname, search);
}

export const app = new App();

/** For links: stays in the page unless the user wants another tab. */
export function follow(event: MouseEvent): void {
  if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.currentTarget as HTMLAnchorElement;
  event.preventDefault();
  void app.go(link.pathname + link.search);
}
