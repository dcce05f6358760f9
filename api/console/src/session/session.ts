/** Who is signed in, and what they may see. */
import { queryOptions, useSuspenseQuery } from '@tanstack/react-query';

import { api, fetchClient, type Schemas } from '../api/client';
import { NoAnswer, refusalOf } from '../api/refusal';

export interface BrowserSession {
  signed_in: boolean;
  mode: 'dev' | 'oidc';
  user: { user_id: string; email: string | null; name: string | null } | null;
  expires_at: string | null;
  sign_in: string | null;
  problem: string | null;
}

export type Organization = Schemas['OrganizationOfUser'];

export interface Session {
  userId: string;
  email: string | null;
  name: string | null;
  isSystemAdmin: boolean;
  organizations: readonly Organization[];
}

export const browserSession = queryOptions({
  queryKey: ['session'],
  queryFn: async (): Promise<BrowserSession> => {
    const response = await fetch('/console/session').catch((error: unknown) => {
      throw new NoAnswer(error);
    });
    if (!response.ok) throw await refusalOf(response);
    return (await response.json()) as BrowserSession;
  },
  staleTime: 60_000,
});

/** Only below a place that has made sure that somebody is signed in (SignedIn). */
export function useSession(): Session {
  const { data } = useSuspenseQuery(api.queryOptions('get', '/api/v1/auth/user'));
  return {
    userId: data.user_id,
    email: data.email,
    name: data.name,
    isSystemAdmin: data.is_system_admin,
    organizations: data.organizations,
  };
}

/** What somebody is in an organisation; a system admin is an admin of all. */
export function roleIn(session: Session, orgId: string): 'admin' | 'member' | null {
  if (session.isSystemAdmin) return 'admin';
  const membership = session.organizations.find((one) => one.org_id === orgId);
  if (!membership) return null;
  return membership.role === 'admin' ? 'admin' : 'member';
}

/** Where signing in leads back to: this page with its filters. */
export function signInAddress(session: BrowserSession): string | null {
  if (session.sign_in === null) return null;
  const here = location.pathname + location.search;
  return `${session.sign_in}?to=${encodeURIComponent(here)}`;
}

export async function signOut(): Promise<void> {
  const response = await fetch('/console/session/sign-out', { method: 'POST' });
  if (!response.ok) throw await refusalOf(response);
  const { location: next } = (await response.json()) as { location: string };
  sessionStorage.clear();
  location.assign(next);
}

export const chooseDefaultOrganization = (orgId: string) =>
  fetchClient.PUT('/api/v1/auth/user/default-organization', { body: { org_id: orgId } });
