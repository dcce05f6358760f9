/** The page's one live stream, shared by the screen, its dialogs and the dot in the head. */
import { useEffect, useSyncExternalStore } from 'react';

import { follow, OFF, type FeedState } from './feed';

let state: FeedState = OFF;
const listeners = new Set<() => void>();

function set(next: FeedState): void {
  state = next;
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** What the stream last said; `off` on screens that have none. */
export function useLiveState(): FeedState {
  return useSyncExternalStore(subscribe, () => state);
}

/**
 * Follows an organisation's pool and these members while the screen is shown. One call a screen; as
 * long as `users` is null it is not known yet who they are, and nothing is opened.
 */
export function useLive(orgId: string, users: readonly string[] | null = []): FeedState {
  const wanted = users?.join(',');
  useEffect(() => {
    if (wanted === undefined) return;
    const stop = follow(orgId, wanted ? wanted.split(',') : [], set);
    return () => {
      stop();
      set(OFF);
    };
  }, [orgId, wanted]);
  return useLiveState();
}
