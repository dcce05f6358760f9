/** What a receiver can hear of, in groups that people choose by. */
import type { Schemas } from '../../../api/client';

export type NoticeType = Schemas['NewReceiver']['types'][number];

export const EVERYTHING: NoticeType = '*';

const GROUPS = [
  ['pool', 'pool: low, exhausted'],
  ['allocation', 'allocations: low, exhausted, ending, renewed'],
  ['credits', 'credits: bought, refunded, adjusted'],
  ['subscription', 'subscription: made, changed, ended'],
  ['invoice', 'invoices: paid, failed'],
  ['member', 'members: invited, joined, left'],
  ['key', 'API keys: made, ending, revoked'],
] as const;

export type Group = (typeof GROUPS)[number][0];
export const CHOICES: readonly (readonly [Group, string])[] = GROUPS;

const TYPES: Record<Group, readonly NoticeType[]> = {
  pool: ['pool.low', 'pool.exhausted'],
  allocation: [
    'allocation.low',
    'allocation.exhausted',
    'allocation.expires_soon',
    'allocation.expired',
    'allocation.renewed',
    'allocation.renewal_failed',
  ],
  credits: ['credits.purchased', 'credits.refunded', 'credits.adjusted'],
  subscription: [
    'subscription.created',
    'subscription.upgraded',
    'subscription.canceled',
    'subscription.resumed',
    'subscription.past_due',
    'subscription.active',
    'subscription.ended',
  ],
  invoice: ['invoice.paid', 'invoice.failed'],
  member: [
    'member.invited',
    'member.joined',
    'member.declined',
    'member.role_changed',
    'member.left',
  ],
  key: ['key.created', 'key.expires_soon', 'key.revoked'],
};

const ALL = Object.keys(TYPES) as Group[];

/** The groups that are chosen: all of them for `*`, and one that is chosen in part as well. */
export function groupsOf(types: readonly string[]): Group[] {
  if (types.includes(EVERYTHING)) return ALL;
  return ALL.filter((group) => types.some((type) => type.startsWith(`${group}.`)));
}

/**
 * What to ask for so that exactly these groups are chosen. A group that was chosen in part stays
 * so: nobody hears more for having opened a dialog. All groups are `*`, with what comes later.
 */
export function typesOf(groups: readonly Group[], before: readonly string[]): NoticeType[] {
  if (groups.length === ALL.length) {
    const wasPart = before.length > 0 && !before.includes(EVERYTHING);
    if (!wasPart || groupsOf(before).length < ALL.length) return [EVERYTHING];
  }
  const known = new Set(before);
  // Of no group, such as that of a release after this one: it is left as it is.
  const others = before.filter((type) => type !== EVERYTHING && groupsOf([type]).length === 0);
  const chosen = ALL.filter((group) => groups.includes(group)).flatMap((group) => {
    const kept = TYPES[group].filter((type) => known.has(type));
    return kept.length > 0 ? kept : TYPES[group];
  });
  return [...chosen, ...(others as NoticeType[])];
}

/** In a cell: `all`, or the groups. */
export function typesInWords(types: readonly string[]): string {
  return types.includes(EVERYTHING) ? 'everything' : groupsOf(types).join(', ') || types.join(', ');
}
