/** Which of somebody's credits end, and when. */
import type { Schemas } from '../../api/client';
import { fromCredits } from '../../lib/money';
import type { Ending } from '../../parts/Endings';

/** The next first; what has no end is not in it. */
export function endingsOf(organizations: readonly Schemas['BillingOfOrganization'][]): Ending[] {
  return organizations
    .flatMap(({ org_id: id, org_name: name, allocation }) =>
      allocation?.expires_at
        ? [
            {
              id,
              name,
              at: allocation.expires_at,
              amount: fromCredits(allocation.remaining_credits),
              renews: allocation.auto_renew,
            },
          ]
        : [],
    )
    .sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
}
