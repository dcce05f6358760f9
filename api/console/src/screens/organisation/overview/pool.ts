/** What a pool is made of, from the live stream where there is one, else from the books. */
import type { Schemas } from '../../../api/client';
import { fromCredits, minus, plus, ZERO, type Milli } from '../../../lib/money';
import type { LivePool } from '../../../live/feed';
import type { PoolPart } from '../../../parts/PoolBar';

export function settledPool(pool: Schemas['PoolDetails'], held: Milli): LivePool {
  return {
    total: fromCredits(pool.total_credits),
    allocated: fromCredits(pool.allocated_credits),
    available: fromCredits(pool.available_credits),
    used: fromCredits(pool.used_credits),
    closed: fromCredits(pool.closed_credits),
    held,
  };
}

/** Credits that nobody has used yet: free ones, and what members have left. */
export function leftOf(pool: LivePool): Milli {
  return minus(pool.total, pool.used);
}

/** used + held + allocated + free = total: an overdrawn pool shows nothing as negative width. */
export function partsOf(pool: LivePool): PoolPart[] {
  const unspent = minus(minus(plus(pool.allocated, pool.closed), pool.used), pool.held);
  return [
    {
      name: 'Used',
      amount: pool.used,
      colour: 'used',
      meaning: 'What requests have cost, of open and of closed allocations.',
    },
    {
      name: 'Held',
      amount: pool.held,
      colour: 'held',
      meaning: 'What open requests keep; most of it comes back when they end.',
    },
    {
      name: 'Allocated',
      amount: unspent,
      colour: 'allocated',
      meaning: 'What members have and have not spent.',
    },
    {
      name: 'Free',
      amount: pool.available,
      colour: 'free',
      meaning: 'What can still be allocated to members.',
    },
  ];
}

export interface Burn {
  /** Credits a day. */
  perDay: Milli;
  /** How many whole days it is the mean of. */
  days: number;
}

const BURN_DAYS = 7;

/** The mean of the last whole days; `days` are the books' days, oldest first, today the last. */
export function burnOf(days: readonly Milli[]): Burn {
  const whole = days.slice(-BURN_DAYS - 1, -1);
  const sum = plus(ZERO, ...whole);
  return { perDay: Math.round(sum / Math.max(whole.length, 1)) as Milli, days: whole.length };
}

/** Whole days until nothing is left, or null where nothing is being used. */
export function daysLeft(left: Milli, burn: Burn): number | null {
  return burn.perDay > 0 ? Math.max(0, Math.floor(left / burn.perDay)) : null;
}

/** How long it lasts, in words that say by which pace. */
export function lastsInWords(days: number | null): string | undefined {
  if (days === null) return undefined;
  const count = days === 0 ? 'less than a day' : `about ${days} day${days === 1 ? '' : 's'}`;
  return `lasts ${count} at the pace of the last week`;
}
