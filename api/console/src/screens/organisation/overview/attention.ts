/** What an admin should look at, found in what the overview has already asked for. */
import type { Schemas } from '../../../api/client';
import { isPast } from '../../../lib/time';
import type { Filters } from '../../../app/addresses';

export interface Concern {
  sentence: string;
  to: string;
  search?: Filters;
}

const NEARLY_USED_PERCENT = 90;
const SOON_MS = 14 * 86_400_000;
const FEW_DAYS = 14;
const NEARLY_ALLOCATED_PERCENT = 95;

export function concernsOf(
  dashboard: Schemas['OrganizationDashboard'],
  days: number | null,
  now = Date.now(),
): Concern[] {
  const at = `/o/${encodeURIComponent(dashboard.organization.org_id)}`;
  const allocations = dashboard.user_allocations;
  const nearlyUsed = allocations.filter((one) => one.usage_percentage >= NEARLY_USED_PERCENT);
  const ending = dashboard.ending_allocations.filter(
    (one) =>
      one.expires_at && !isPast(one.expires_at, now) && isPast(one.expires_at, now + SOON_MS),
  );
  const concerns: (Concern | false)[] = [
    days !== null &&
      days <= FEW_DAYS && {
        sentence:
          days === 0
            ? 'The pool lasts less than a day'
            : `The pool lasts about ${plural(days, 'day')}`,
        to: at,
        search: { do: 'buy' },
      },
    nearlyUsed.length > 0 && {
      sentence: `${plural(nearlyUsed.length, 'member')} above ${NEARLY_USED_PERCENT} %`,
      to: `${at}/members`,
      search: { sort: 'remaining_credits' },
    },
    ending.length > 0 && {
      sentence: `${plural(ending.length, 'allocation')} ending within 14 days`,
      to: `${at}/members`,
      search: { sort: 'expires_at', ends: 'true' },
    },
    dashboard.credit_pool.allocation_percentage >= NEARLY_ALLOCATED_PERCENT && {
      sentence: 'Nearly everything is allocated: little is left to give',
      to: at,
      search: { do: 'buy' },
    },
    dashboard.subscription !== null &&
      dashboard.subscription.status !== 'active' && {
        sentence: `The subscription is ${dashboard.subscription.status.replace('_', ' ')}`,
        to: `${at}/settings`,
      },
    dashboard.subscription?.next_billing_date === null && {
      sentence: 'The subscription ends with its period',
      to: `${at}/settings`,
    },
  ];
  return concerns.filter((one) => one !== false);
}

export function plural(count: number, word: string): string {
  return `${count.toLocaleString()} ${word}${count === 1 ? '' : 's'}`;
}
