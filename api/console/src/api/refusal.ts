/** What the API refuses, in its own words. */

interface ErrorBody {
  error?: { code?: string; message?: string; details?: Record<string, unknown> };
  detail?: unknown;
}

/** An answer that is not 2xx. `message` is the API's sentence. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: Readonly<Record<string, unknown>> = {},
    readonly requestId: string | null = null,
  ) {
    super(message);
    this.name = 'Refusal';
  }

  /** A figure among the details, such as `need` and `have`, in credits. */
  figure(name: string): number | null {
    const value = this.details[name];
    return typeof value === 'number' ? value : null;
  }
}

/** Nothing came back: the network is away, or the answer was lost on its way. */
export class NoAnswer extends Error {
  constructor(cause: unknown) {
    super('The API did not answer. Look whether it runs, and whether this device is online.', {
      cause,
    });
    this.name = 'NoAnswer';
  }
}

export async function refusalOf(response: Response): Promise<Refusal> {
  const body = await response.json().then(
    (said) => said as ErrorBody,
    () => null,
  );
  const said = body?.error;
  return new Refusal(
    response.status,
    said?.code ?? `HTTP_${response.status}`,
    said?.message ?? `The API answered ${response.status} without a reason.`,
    said?.details ?? {},
    response.headers.get('x-request-id'),
  );
}

/**
 * Whether what was sent may have taken effect although this came back. A refusal of the request
 * itself says that nothing has changed; what stood in its way, such as an ended session, does not.
 */
export function leavesDoubt(error: unknown, wasInDoubt: boolean): boolean {
  if (!(error instanceof Refusal)) return true;
  if (error.status >= 500 || error.status === 408) return true;
  return wasInDoubt && [401, 403, 429].includes(error.status);
}

/** Whether asking again by itself makes sense: not after an answer that will be the same. */
export function isPassing(error: unknown): boolean {
  return !(error instanceof Refusal) || error.status >= 500;
}

export function isSessionOver(error: unknown): boolean {
  return error instanceof Refusal && error.status === 401;
}
