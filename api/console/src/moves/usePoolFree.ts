import { api } from '../api/client';
import { fromCredits, type Milli } from '../lib/money';

/** What of the pool can still be allocated, as of a moment ago; null until it is known. */
export function usePoolFree(orgId: string): Milli | null {
  const { data } = api.useQuery(
    'get',
    '/api/v1/org-billing/credits/{org_id}',
    { params: { path: { org_id: orgId } } },
    { staleTime: 0 },
  );
  return data ? fromCredits(data.available_credits) : null;
}
