import Chip from '@mui/material/Chip';

import { StoryLink } from './Requests';
import { api } from '../../../api/client';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { fromCredits } from '../../../lib/money';
import { Amount } from '../../../parts/Amount';
import { AsOf } from '../../../parts/AsOf';
import { EmptyState } from '../../../parts/EmptyState';
import { FilterField } from '../../../parts/FilterField';
import { ListPanel } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { useCursor } from '../../../parts/useCursor';

const EVERY_MS = 2000;

/** Requests that run at this moment, and what each keeps. */
export default function Holds() {
  const orgId = useThisOrg();
  const [filters, change] = useFilters({ user: '' });
  const cursor = useCursor();
  const query = api.useQuery(
    'get',
    '/api/v1/org-billing/credits/{org_id}/holds',
    {
      params: {
        path: { org_id: orgId },
        query: {
          limit: 100,
          ...(filters.user && { user_id: filters.user }),
          ...(cursor.at && { cursor: cursor.at }),
        },
      },
    },
    { placeholderData: (before) => before, refetchInterval: EVERY_MS },
  );
  const { data } = query;
  return (
    <Page title="Open holds" about={data && <AsOf at={data.as_of} />}>
      <ListPanel
        label="Open holds"
        query={query}
        rows={data?.holds}
        keyOf={(one) => one.request_id}
        cursor={cursor}
        next={data?.next}
        filters={
          <FilterField
            label="User id"
            value={filters.user}
            onChange={(user) => {
              change({ user });
              cursor.begin();
            }}
          />
        }
        empty={
          <EmptyState title="Nothing is held now">
            A request keeps an estimate of its cost while it runs. It appears here until it ends.
          </EmptyState>
        }
        columns={[
          { name: 'User', cell: (one) => one.user_id },
          { name: 'Model or service', cell: (one) => one.service_name ?? one.service_type ?? '–' },
          {
            name: 'Held, credits',
            figure: true,
            cell: (one) => <Amount of={fromCredits(one.held_credits)} />,
          },
          {
            name: 'Reported',
            figure: true,
            wide: true,
            cell: (one) => <Amount of={fromCredits(one.reported_credits)} />,
          },
          {
            name: 'Deadline',
            cell: (one) =>
              one.overdue ? (
                <Chip size="small" color="warning" label="overdue" />
              ) : (
                <Moment at={one.deadline} as="clock" />
              ),
          },
          {
            name: 'Request',
            wide: true,
            cell: (one) => <StoryLink orgId={orgId} requestId={one.request_id} />,
          },
        ]}
      />
    </Page>
  );
}
