// Who is signed in and which view is shown.

import { onSignedOut } from "../api/client";
import { Problem } from "../api/problem";
import * as sessions from "../api/sessions";
import { parseRoute, type Route } from "../lib/route";

class App {
  /** `undefined` until the server has said. */
  user = $state<{ name: string } | null | undefined>(undefined);
  problem = $state<Problem | undefined>(undefined);
  route = $state.raw<Route>(parseRoute(location.pathname, location.search));

  constructor() {
    onSignedOut(() => (this.user = null));
    addEventListener("popstate", () => (this.route = parseRoute(location.pathname, location.search)));
  }

  async load(): Promise<void> {
    this.problem = undefined;
    try {
      this.user = await sessions.me();
    } catch (error) {
      const problem = Problem.from(error);
      if (problem.status !== 401) this.problem = problem;
    }
  }

  /** Shows another view, as a link would. */
  go(url: string): void {
    history.pushState(null, "", url);
    this.route = parseRoute(location.pathname, location.search);
  }

  async signOut(): Promise<void> {
    await sessions.signOut();
    this.user = null;
  }
}

export const app = new App();

/** For links: stays in the page unless the user wants another tab. */
export function follow(event: MouseEvent): void {
  if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.currentTarget as HTMLAnchorElement;
  event.preventDefault();
  app.go(link.pathname + link.search);
}
