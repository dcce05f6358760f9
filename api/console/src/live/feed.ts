/**
 * The live stream of a page: one EventSource for the organisation that is shown and the members in
 * view. Figures are at most two seconds old while `status` is live; silence of five seconds makes
 * it stale, and then what is shown has to say "as of".
 */
import { fromCredits, type Milli } from '../lib/money';
import { noticeSessionEnd } from '../session/ended';

export type FeedStatus = 'off' | 'connecting' | 'live' | 'stale';

export interface LivePool {
  total: Milli;
  allocated: Milli;
  available: Milli;
  used: Milli;
  closed: Milli;
  held: Milli;
}

export interface LiveMember {
  available: Milli;
  held: Milli;
  remaining: Milli;
  /** False: as settled, since Redis did not answer for this member. */
  live: boolean;
}

export interface FeedState {
  readonly status: FeedStatus;
  readonly asOf: string | null;
  readonly pool: LivePool | null;
  readonly members: ReadonlyMap<string, LiveMember>;
}

interface Balances {
  as_of: string;
  live: boolean;
  pool: {
    total_credits: number;
    allocated_credits: number;
    available_credits: number;
    used_credits: number;
    closed_credits: number;
    in_progress_credits: number;
  } | null;
  members: {
    user_id: string;
    available_credits: number | null;
    held_credits: number | null;
    remaining_credits: number | null;
    live: boolean;
  }[];
}

export const STALE_AFTER_MS = 5000;
const RECONNECT_MS = 2000;
/** As many members as one stream tells of. */
export const MEMBERS_MAX = 100;
const SESSION_CODES = new Set(['UNAUTHORIZED', 'session_over']);

export const OFF: FeedState = { status: 'off', asOf: null, pool: null, members: new Map() };

/** Starts to follow; call the result to stop. `tell` gets every new state. */
export function follow(
  orgId: string,
  users: readonly string[],
  tell: (state: FeedState) => void,
): () => void {
  let state: FeedState = { ...OFF, status: 'connecting' };
  let source: EventSource | null = null;
  let silence: ReturnType<typeof setTimeout> | undefined;
  let reconnect: ReturnType<typeof setTimeout> | undefined;

  const set = (change: Partial<FeedState>) => {
    state = { ...state, ...change };
    tell(state);
  };
  const heard = (asOf: string, live: boolean) => {
    clearTimeout(silence);
    silence = setTimeout(() => set({ status: 'stale' }), STALE_AFTER_MS);
    set({ asOf, status: live ? 'live' : 'stale' });
  };

  function connect(): void {
    source = new EventSource(addressOf(orgId, users));
    source.addEventListener('balances', (event) => {
      const said = JSON.parse(event.data as string) as Balances;
      const members = new Map(state.members);
      for (const member of said.members) {
        const figures = liveMember(member);
        // What Redis does not tell is shown as it was settled, and not as it was a moment ago.
        if (figures) members.set(member.user_id, figures);
        else members.delete(member.user_id);
      }
      set({ pool: said.pool && livePool(said.pool), members });
      heard(said.as_of, said.live);
    });
    source.addEventListener('beat', (event) => {
      const said = JSON.parse(event.data as string) as { as_of: string; live: boolean };
      heard(said.as_of, said.live);
    });
    source.addEventListener('end', (event) => {
      source?.close();
      const { code } = JSON.parse(event.data as string) as { code: string };
      if (SESSION_CODES.has(code)) noticeSessionEnd();
      else if (code === 'server_stops') again();
      set({ status: 'stale' });
    });
    source.addEventListener('error', () => {
      // The browser connects again by itself, except after an answer that is no stream.
      if (source?.readyState === EventSource.CLOSED) again();
    });
  }

  function again(): void {
    clearTimeout(reconnect);
    reconnect = setTimeout(connect, RECONNECT_MS);
  }

  tell(state);
  silence = setTimeout(() => set({ status: 'stale' }), STALE_AFTER_MS);
  connect();
  return () => {
    clearTimeout(silence);
    clearTimeout(reconnect);
    source?.close();
  };
}

function addressOf(orgId: string, users: readonly string[]): string {
  const query = new URLSearchParams();
  for (const user of users.slice(0, MEMBERS_MAX)) query.append('user', user);
  return `/api/v1/org-billing/credits/${encodeURIComponent(orgId)}/live?${query.toString()}`;
}

function livePool(pool: NonNullable<Balances['pool']>): LivePool {
  return {
    total: fromCredits(pool.total_credits),
    allocated: fromCredits(pool.allocated_credits),
    available: fromCredits(pool.available_credits),
    used: fromCredits(pool.used_credits),
    closed: fromCredits(pool.closed_credits),
    held: fromCredits(pool.in_progress_credits),
  };
}

function liveMember(member: Balances['members'][number]): LiveMember | null {
  const { available_credits, held_credits, remaining_credits } = member;
  if (available_credits === null || held_credits === null || remaining_credits === null) {
    return null;
  }
  return {
    available: fromCredits(available_credits),
    held: fromCredits(held_credits),
    remaining: fromCredits(remaining_credits),
    live: member.live,
  };
}
