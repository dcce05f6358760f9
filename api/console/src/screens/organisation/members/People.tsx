import Button from '@mui/material/Button';
import Chip from '@mui/material/Chip';
import { useState } from 'react';

import { InviteDialog } from './InviteDialog';
import { api, fetchClient, type Schemas } from '../../../api/client';
import { useFilters } from '../../../app/addresses';
import { Confirm } from '../../../parts/Confirm';
import { EmptyState } from '../../../parts/EmptyState';
import { ChoiceField } from '../../../parts/FilterField';
import { ListPanel } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { useCursor } from '../../../parts/useCursor';

const STATES = [
  ['', 'all'],
  ['active', 'members'],
  ['invited', 'invited'],
] as const;

/** Who is in the organisation or was invited, and what they may do there. */
export function People({ orgId }: { orgId: string }) {
  const [filters, change] = useFilters({ status: '' });
  const cursor = useCursor();
  const [inviting, setInviting] = useState(false);
  const [leaving, setLeaving] = useState<Schemas['MemberView'] | null>(null);
  const query = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs/{org_id}/members',
    {
      params: {
        path: { org_id: orgId },
        query: {
          limit: 100,
          ...(filters.status && { status: filters.status as 'active' | 'invited' }),
          ...(cursor.at && { cursor: cursor.at }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const remove = (userId: string) =>
    fetchClient.DELETE('/api/v1/org-billing/orgs/{org_id}/members/{user_id}', {
      params: { path: { org_id: orgId, user_id: userId } },
    });
  return (
    <>
      <ListPanel
        label="Members"
        title="People"
        aside={<Button onClick={() => setInviting(true)}>Add or invite</Button>}
        query={query}
        rows={query.data?.members}
        keyOf={(one) => one.user_id}
        cursor={cursor}
        next={query.data?.next}
        filters={
          <ChoiceField
            label="Who"
            value={filters.status}
            onChange={(status) => {
              change({ status });
              cursor.begin();
            }}
            options={STATES}
          />
        }
        empty={
          <EmptyState
            title="Nobody of this kind"
            action={
              <Button variant="contained" onClick={() => setInviting(true)}>
                Add or invite
              </Button>
            }
          />
        }
        columns={[
          { name: 'User', cell: (one) => one.user_email ?? one.user_id },
          { name: 'Id', wide: true, cell: (one) => one.user_id },
          { name: 'Role', cell: (one) => one.role },
          {
            name: 'State',
            cell: (one) => (
              <Chip
                size="small"
                label={one.status}
                color={one.status === 'active' ? 'default' : 'warning'}
                variant="outlined"
              />
            ),
          },
          { name: 'Since', wide: true, cell: (one) => <Moment at={one.created_at} /> },
          {
            name: '',
            figure: true,
            cell: (one) => (
              <Button color="error" onClick={() => setLeaving(one)}>
                Remove
              </Button>
            ),
          },
        ]}
      />
      {inviting && <InviteDialog orgId={orgId} onClose={() => setInviting(false)} />}
      {leaving && (
        <Confirm
          title={`Remove ${leaving.user_email ?? leaving.user_id}?`}
          verb="Remove"
          act={() => remove(leaving.user_id)}
          said="Removed."
          onClose={() => setLeaving(null)}
        >
          What they have not spent returns to the pool. Requests that still run are charged when
          they end, and the API keys that they have made end now.
        </Confirm>
      )}
    </>
  );
}
