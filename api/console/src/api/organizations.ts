/** Finding organisations: one's own by name, for system admins all of them by the API's search. */
import { useDeferredValue } from 'react';

import { api } from './client';
import type { Session } from '../session/session';

export interface FoundOrganization {
  orgId: string;
  name: string;
  role: string | null;
}

const SHOWN = 30;

export function useOrganizationSearch(
  session: Session,
  text: string,
): { found: FoundOrganization[]; isLoading: boolean } {
  const search = useDeferredValue(text.trim());
  const { data, isFetching } = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs',
    { params: { query: { limit: SHOWN, personal: true, ...(search && { search }) } } },
    { enabled: session.isSystemAdmin, placeholderData: (before) => before },
  );
  const own = session.organizations
    .filter((one) => `${one.org_name} ${one.org_id}`.toLowerCase().includes(search.toLowerCase()))
    .map((one) => ({ orgId: one.org_id, name: one.org_name, role: one.role }));
  const others = (data?.organizations ?? [])
    .filter((one) => own.every((mine) => mine.orgId !== one.org_id))
    .map((one) => ({ orgId: one.org_id, name: one.org_name, role: null }));
  return { found: [...own, ...others].slice(0, SHOWN), isLoading: isFetching };
}

/** Of an organisation that is one's own it is known; a system admin's view of another asks. */
export function useOrganizationName(session: Session, orgId: string | null): string {
  const own = session.organizations.find((one) => one.org_id === orgId);
  const { data } = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs/{org_id}',
    { params: { path: { org_id: orgId ?? '' } } },
    {
      enabled: orgId !== null && !own && session.isSystemAdmin,
      staleTime: 60_000,
      throwOnError: false,
    },
  );
  return own?.org_name ?? data?.org_name ?? orgId ?? '';
}
