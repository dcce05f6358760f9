/** Which organisation the rail leads to: that of the address, else the last one looked at. */
import { useOrgId } from '../app/addresses';
import { useOrganizationName } from '../api/organizations';
import { useSession, type Session } from '../session/session';

const KEY = 'taximeter.organisation';

export function rememberOrg(orgId: string): void {
  localStorage.setItem(KEY, orgId);
}

export function firstOrg(session: Session): string | null {
  const kept = localStorage.getItem(KEY);
  const isMine = session.organizations.some((one) => one.org_id === kept);
  if (kept && (isMine || session.isSystemAdmin)) return kept;
  return session.organizations[0]?.org_id ?? null;
}

export function useShownOrg(): { orgId: string; name: string } | null {
  const session = useSession();
  const inAddress = useOrgId();
  const orgId = inAddress ?? firstOrg(session);
  const name = useOrganizationName(session, orgId);
  return orgId === null ? null : { orgId, name };
}
