/**
 * Remembers an opened dialog that moves credits, so that what it sends takes effect once.
 *
 * A draft has one Idempotency-Key from when its dialog is opened until its answer is known. It is
 * kept in the session storage of the tab: a reload finds the same key and, where something was
 * sent whose answer nobody saw, the body that was sent, which is then the only one that may be
 * sent again.
 */

export interface Draft<Body> {
  readonly key: string;
  /** What was sent and has no answer yet; null while nothing is in doubt. */
  readonly sent: Body | null;
}

const PREFIX = 'taximeter.draft.';

export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The draft of this name, or a new one. A name says who sends what for whom. */
export function openDraft<Body>(name: string, storage: Storage = sessionStorage): Draft<Body> {
  const kept = storage.getItem(PREFIX + name);
  if (kept !== null) return JSON.parse(kept) as Draft<Body>;
  const draft: Draft<Body> = { key: newKey(), sent: null };
  storage.setItem(PREFIX + name, JSON.stringify(draft));
  return draft;
}

/** Call it before sending: from here on the body is in doubt until `settleDraft`. */
export function markSent(
  name: string,
  draft: Draft<unknown>,
  body: unknown,
  storage: Storage = sessionStorage,
): void {
  storage.setItem(PREFIX + name, JSON.stringify({ key: draft.key, sent: body }));
}

/** The API refused it: nothing has changed, and the same key may be used for a better body. */
export function markRefused(
  name: string,
  draft: Draft<unknown>,
  storage: Storage = sessionStorage,
): void {
  storage.setItem(PREFIX + name, JSON.stringify({ key: draft.key, sent: null }));
}

/** Its answer is known, or its dialog was closed with nothing in doubt: the key is used up. */
export function endDraft(name: string, storage: Storage = sessionStorage): void {
  storage.removeItem(PREFIX + name);
}
