import { AdminOverview } from './AdminOverview';
import { MemberOverview } from './MemberOverview';
import { useThisOrg } from '../../../app/addresses';
import { roleIn, useSession } from '../../../session/session';

/** An admin sees the pool and everybody, a member what is their own. */
export default function Overview() {
  const orgId = useThisOrg();
  const session = useSession();
  return roleIn(session, orgId) === 'admin' ? (
    <AdminOverview orgId={orgId} />
  ) : (
    <MemberOverview orgId={orgId} userId={session.userId} />
  );
}
