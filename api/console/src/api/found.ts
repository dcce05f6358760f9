/** Finding members and API keys of an organisation by what somebody types or pastes. */
import { useDeferredValue } from 'react';

import { api, type Schemas } from './client';

type Key = Schemas['ApiKeyView'];

/** What comes before the id in the text of a key. */
export const KEY_PREFIX = 'tm_';
/** As many keys as an organisation may have that work. */
export const KEYS_MAX = 100;
const SHOWN = 8;

/** Nobody is looked for without an organisation or a text. */
export function useMemberSearch(orgId: string | null, text: string): Schemas['MemberView'][] {
  const search = useDeferredValue(text);
  const { data } = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs/{org_id}/members',
    { params: { path: { org_id: orgId ?? '' }, query: { search, limit: SHOWN } } },
    { enabled: orgId !== null && search !== '', placeholderData: (before) => before },
  );
  return search === '' ? [] : (data?.members ?? []);
}

/** Keys that work: all are asked for once, and looked through here. */
export function useKeySearch(orgId: string | null, text: string): Key[] {
  const { data } = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs/{org_id}/keys',
    {
      params: {
        path: { org_id: orgId ?? '' },
        query: { limit: KEYS_MAX, offset: 0, include_ended: false },
      },
    },
    { enabled: orgId !== null && text !== '' },
  );
  return text === '' ? [] : keysOf(data?.keys ?? [], text).slice(0, SHOWN);
}

/** By a part of their name, the beginning of their text, or all of it, which nobody keeps. */
export function keysOf(keys: readonly Key[], text: string): Key[] {
  const name = text.toLowerCase();
  return keys.filter((key) => {
    const prefix = KEY_PREFIX + key.key_id;
    return (
      key.name.toLowerCase().includes(name) ||
      key.key_id === text ||
      (text.length > KEY_PREFIX.length && (prefix.startsWith(text) || text.startsWith(prefix)))
    );
  });
}
