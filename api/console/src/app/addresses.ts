/** What the address of a page says: which organisation, and the filters of the screen. */
import { useNavigate, useParams, useSearch } from '@tanstack/react-router';

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

/**
 * The filters of a screen, kept in the address so that a page can be sent to somebody. `change`
 * replaces the address rather than adding a step to "back"; an empty value or the default leaves it.
 */
export function useFilters<F extends Filters>(
  defaults: F,
): readonly [F, (change: Partial<F>) => void] {
  const search: Filters = useSearch({ strict: false });
  const navigate = useNavigate();
  const filters = Object.fromEntries(
    Object.entries(defaults).map(([name, value]) => [name, search[name] ?? value]),
  ) as F;
  const change = (changed: Partial<F>) => {
    const next = Object.fromEntries(
      Object.entries({ ...search, ...changed }).filter(([name, value]) => value !== defaults[name]),
    );
    void navigate({ to: '.', search: next, replace: true });
  };
  return [filters, change];
}
