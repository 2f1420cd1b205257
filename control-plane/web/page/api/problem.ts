// What went wrong, as the server says it: a stable code, a sentence for a
// person, and the request id that is also in the server's log.

export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly title: string,
    readonly detail: string,
    readonly requestId: string | undefined,
  ) {
    super(detail || title);
    this.name = "Problem";
  }

  /** Nothing came back: the network, not the server's word. */
  get isOffline(): boolean {
    return this.status === 0;
  }

  static offline(): Problem {
    return new Problem(0, "offline", "The server cannot be reached", "Check the connection; Berth keeps trying.", undefined);
  }

  /** Anything caught, as a problem. */
  static from(error: unknown): Problem {
    if (error instanceof Problem) return error;
    return new Problem(0, "page", "Something went wrong in the page", String(error), undefined);
  }

  static async of(response: Response): Promise<Problem> {
    const requestId = response.headers.get("x-request-id") ?? undefined;
    try {
      const body = (await response.json()) as Partial<Record<string, string>>;
      return new Problem(
        response.status,
        body["code"] ?? "unknown",
        body["title"] ?? response.statusText,
        body["detail"] ?? "",
        body["request_id"] ?? requestId,
      );
    } catch {
      return new Problem(response.status, "unknown", `The server answered ${response.status}`, response.statusText, requestId);
    }
  }
}
