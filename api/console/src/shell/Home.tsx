import { Navigate } from '@tanstack/react-router';

import { firstOrg } from './shownOrg';
import { useSession } from '../session/session';

/** Where the console begins: the organisation last looked at, or one's own credits. */
export function Home() {
  const session = useSession();
  const orgId = firstOrg(session);
  return orgId === null ? (
    <Navigate to="/me" replace />
  ) : (
    <Navigate to="/o/$orgId" params={{ orgId }} replace />
  );
}
