import { useRail } from './railEntries';
import { useShownOrg } from './shownOrg';
import type { Filters } from '../app/addresses';
import { KEY_PREFIX, useKeySearch, useMemberSearch } from '../api/found';
import { useOrganizationSearch } from '../api/organizations';
import { actionsOf } from '../screens/organisation/actions';
import { roleIn, useSession } from '../session/session';

export interface PaletteEntry {
  group: 'Actions' | 'Screens' | 'Members' | 'Keys' | 'Look up' | 'Organisations';
  title: string;
  hint: string;
  to: string;
  search?: Filters;
}

const MOST_OF_A_GROUP = 8;

export function usePaletteEntries(text: string): PaletteEntry[] {
  const session = useSession();
  const shown = useShownOrg();
  const rail = useRail();
  const { found } = useOrganizationSearch(session, text);
  const wanted = text.trim().toLowerCase();
  const has = (entry: PaletteEntry) => entry.title.toLowerCase().includes(wanted);

  const screens = rail
    .flatMap((group) => group.entries)
    .map((entry): PaletteEntry => ({
      group: 'Screens',
      title: entry.title,
      hint: entry.letter ? `g ${entry.letter}` : '',
      to: entry.address,
    }));
  const organizations = found.map((one): PaletteEntry => ({
    group: 'Organisations',
    title: one.name,
    hint: one.orgId,
    to: `/o/${encodeURIComponent(one.orgId)}`,
  }));
  const isAdmin = shown !== null && roleIn(session, shown.orgId) === 'admin';
  const actions = isAdmin ? actionsOf(shown.orgId) : [];
  const within = isAdmin ? shown.orgId : null;
  const members = useMemberSearch(within, text.trim()).map((one): PaletteEntry => ({
    group: 'Members',
    title: one.user_email ?? one.user_id,
    hint: one.user_email ? one.user_id : one.role,
    to: `/o/${encodeURIComponent(within ?? '')}/members`,
    search: { search: one.user_id },
  }));
  const keys = useKeySearch(within, text.trim()).map((one): PaletteEntry => ({
    group: 'Keys',
    title: one.name,
    hint: `${KEY_PREFIX}${one.key_id}…${one.last_four}`,
    to: `/o/${encodeURIComponent(within ?? '')}/keys`,
    search: { key: one.key_id },
  }));
  const lookUps =
    shown && wanted ? lookUpsOf(shown.orgId, text.trim(), isAdmin && members.length === 0) : [];
  return [
    ...screens.filter(has).slice(0, wanted ? MOST_OF_A_GROUP : screens.length),
    ...actions.filter(has),
    ...members,
    ...keys,
    ...lookUps,
    ...organizations.slice(0, MOST_OF_A_GROUP),
  ];
}

/** What is typed may be somebody's id or that of a request: the screens' own filters look. */
function lookUpsOf(orgId: string, text: string, withUser: boolean): PaletteEntry[] {
  const at = `/o/${encodeURIComponent(orgId)}`;
  const request: PaletteEntry = {
    group: 'Look up',
    title: `Request ${text}`,
    hint: 'by its id',
    to: `${at}/requests`,
    search: { request: text },
  };
  const user: PaletteEntry = {
    group: 'Look up',
    title: `Member ${text}`,
    hint: 'by id',
    to: `${at}/members`,
    search: { search: text },
  };
  return withUser ? [user, request] : [request];
}
