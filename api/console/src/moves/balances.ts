/** What a member can give and has, for previews: live where the stream tells it. */
import { api, type Schemas } from '../api/client';
import { fromCredits, minus, ZERO, type Milli } from '../lib/money';
import { useLiveState } from '../live/useLive';

export interface MemberBalance {
  userId: string;
  allocated: Milli;
  remaining: Milli;
  held: Milli;
  /** What can be taken now: remaining without what open requests hold. */
  available: Milli;
}

const NOTHING = { allocated: ZERO, remaining: ZERO, held: ZERO, available: ZERO };

/** Null until it is known, or where no user is chosen. A member without an allocation has 0. */
export function useMemberBalance(orgId: string, userId: string): MemberBalance | null {
  const feed = useLiveState();
  const { data } = api.useQuery(
    'get',
    '/api/v1/org-billing/credits/{org_id}/allocations',
    { params: { path: { org_id: orgId }, query: { user_id: userId, is_active: true } } },
    { enabled: userId !== '', staleTime: 0, refetchInterval: 2_000 },
  );
  if (!data) return null;
  const allocation = data.allocations[0];
  if (!allocation) return { userId, ...NOTHING };
  const settled = settledBalance(allocation);
  const live = feed.status === 'live' ? feed.members.get(userId) : undefined;
  return live ? { ...settled, ...live, userId } : settled;
}

export function settledBalance(allocation: Schemas['AllocationView']): MemberBalance {
  const remaining = fromCredits(allocation.remaining_credits);
  const held = fromCredits(allocation.held_credits);
  return {
    userId: allocation.user_id,
    allocated: fromCredits(allocation.allocated_credits),
    remaining,
    held,
    available: minus(remaining, held),
  };
}
