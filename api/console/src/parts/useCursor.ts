/**
 * Pages that follow each other by a cursor. The cursor stands in the address, so that a page can be
 * sent and comes back after a reload; the way back through the pages before is kept beside it, in the
 * history's entry.
 */
import { useLocation } from '@tanstack/react-router';

import { parseSearch, useAddressChange } from '../app/addresses';

export interface Cursor {
  at: string | undefined;
  page: number;
  back: (() => void) | null;
  /** Leads on, where the API has said what follows. */
  to: (next: string | null | undefined) => (() => void) | null;
  begin: () => void;
}

/** `name` is its own for each list of a screen. */
export function useCursor(name = 'at'): Cursor {
  const { searchStr, state } = useLocation();
  const change = useAddressChange();
  const at = parseSearch(searchStr)[name];
  const { page, passed } = trailOf(state, name, at);
  const go = (to: string, trail: readonly string[]) =>
    change({ [name]: to }, { state: { [name]: trail } });
  return {
    at,
    page,
    // Who came by an address alone has passed nothing: back is the beginning.
    back: at === undefined ? null : () => go(passed.at(-1) ?? '', passed.slice(0, -1)),
    to: (next) => (next ? () => go(next, [...passed, at ?? '']) : null),
    begin: () => {
      if (at !== undefined) change({ [name]: '' }, { step: false, state: { [name]: [] } });
    },
  };
}

/** The cursors of the pages before this one; '' is the first. */
function trailOf(state: object, name: string, at: string | undefined) {
  if (at === undefined) return { page: 1, passed: [] };
  const kept: unknown = (state as Record<string, unknown>)[name];
  const passed = Array.isArray(kept) ? (kept as string[]) : [];
  return { page: passed.length + 1, passed };
}
