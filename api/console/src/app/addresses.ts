/** What the address of a page says: which organisation, and the filters of the screen. */
import {
  useNavigate,
  useParams,
  useRouter,
  useSearch,
  type RouterHistory,
} from '@tanstack/react-router';

/** Everything in an address is text; an absent filter is not in it at all. */
export type Filters = Record<string, string>;

export function parseSearch(search: string): Filters {
  return Object.fromEntries(new URLSearchParams(search));
}

export function stringifySearch(filters: Record<string, unknown>): string {
  const said = Object.entries(filters).filter(([, value]) => typeof value === 'string' && value);
  return said.length > 0 ? `?${new URLSearchParams(said as [string, string][]).toString()}` : '';
}

/** The organisation of the page; null on pages of the person or of the system. */
export function useOrgId(): string | null {
  const params: { orgId?: string } = useParams({ strict: false });
  return params.orgId ?? null;
}

/** The same on a screen of an organisation. */
export function useThisOrg(): string {
  const orgId = useOrgId();
  if (orgId === null) throw new Error('not a screen of an organisation');
  return orgId;
}

/** A parameter of the path other than the organisation, such as the id of a request. */
export function useParameter(name: string): string {
  const params: Record<string, string | undefined> = useParams({ strict: false });
  return params[name] ?? '';
}

/** How an address changes: `step` is one that "back" takes back; else it takes the place of this. */
interface Change {
  step?: boolean;
}

/** What says how a dialog stands, or for whom: closing it is no step, or "back" would open it. */
const OF_DIALOGS = new Set(['do', 'for']);

/**
 * Changes parts of this page's address; an empty value leaves it. It begins with the address as it
 * is at this moment, so that two changes of one click do not lose each other.
 */
export function useAddressChange(): (changed: Filters, how?: Change & { state?: object }) => void {
  const navigate = useNavigate();
  const { history } = useRouter() as { history: RouterHistory };
  return (changed, { step = true, state } = {}) => {
    const before = parseSearch(history.location.search);
    const next = { ...before, ...changed };
    const same = stringifySearch(next) === stringifySearch(before);
    void navigate({
      to: '.',
      search: next,
      replace: same || !step,
      resetScroll: false,
      // The place of a list is that of its pages: what was passed stays known.
      state: { ...history.location.state, ...state },
    });
  };
}

/**
 * The filters of a screen, kept in the address so that a page can be sent to somebody. Each change
 * is a step of "back", except of dialogs and of what is typed (`step: false`). An empty value or the
 * default leaves the address.
 */
export function useFilters<F extends Filters>(
  defaults: F,
): readonly [F, (changed: Partial<F>, how?: Change) => void] {
  const search: Filters = useSearch({ strict: false });
  const changeAddress = useAddressChange();
  const filters = Object.fromEntries(
    Object.entries(defaults).map(([name, value]) => [name, search[name] ?? value]),
  ) as F;
  const change = (changed: Partial<F>, how: Change = {}) => {
    const said = Object.entries(changed).map(
      ([name, value]) => [name, value === defaults[name] ? '' : (value ?? '')] as const,
    );
    const step = said.some(([name]) => !OF_DIALOGS.has(name));
    changeAddress(Object.fromEntries(said), { step, ...how });
  };
  return [filters, change];
}
