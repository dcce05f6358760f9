import type { ReactNode } from 'react';

import { useThisOrg } from '../app/addresses';
import { EmptyState } from '../parts/EmptyState';
import { GoButton } from '../parts/Go';
import { roleIn, useSession } from '../session/session';

/** Shows a screen to admins of its organisation; the API would refuse anybody else as well. */
export function AdminsOnly({ children }: { children: ReactNode }) {
  const orgId = useThisOrg();
  if (roleIn(useSession(), orgId) === 'admin') return children;
  return (
    <EmptyState
      title="This is for admins of the organisation"
      action={<GoButton to={`/o/${encodeURIComponent(orgId)}`}>To the overview</GoButton>}
    />
  );
}
