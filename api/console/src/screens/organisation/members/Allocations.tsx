import Box from '@mui/material/Box';
import Button from '@mui/material/Button';
import { lazy, Suspense } from 'react';

import { askedSort } from './sorting';
import { api } from '../../../api/client';
import { useFilters } from '../../../app/addresses';
import { useLive } from '../../../live/useLive';
import { AsOf } from '../../../parts/AsOf';
import { EmptyState } from '../../../parts/EmptyState';
import { ErrorState } from '../../../parts/ErrorState';
import { ChoiceField, SearchField } from '../../../parts/FilterField';
import { Loading } from '../../../parts/Loading';
import { Pager } from '../../../parts/Pager';
import { Panel } from '../../../parts/Panel';
import { useCursor } from '../../../parts/useCursor';

const AllocationGrid = lazy(() => import('./AllocationGrid'));

const PAGE = 100;
const STATES = [
  ['true', 'can be spent'],
  ['false', 'closed'],
] as const;

const ENDS = [
  ['', 'with and without an end'],
  ['true', 'that end by a date'],
] as const;

/** Allocations with what is left of each at this moment. */
export function Allocations({ orgId }: { orgId: string }) {
  const [filters, change] = useFilters({
    search: '',
    active: 'true',
    ends: '',
    do: '',
    for: '',
    sort: '',
  });
  const cursor = useCursor();
  const { data, error, refetch } = api.useQuery(
    'get',
    '/api/v1/org-billing/credits/{org_id}/allocations',
    {
      params: {
        path: { org_id: orgId },
        query: {
          limit: PAGE,
          is_active: filters.active === 'true',
          activity: true,
          ...(filters.search && { search: filters.search }),
          ...(filters.ends && { has_end: true }),
          ...askedSort(filters.sort),
          ...(cursor.at && { cursor: cursor.at }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const refused: unknown = error;
  const feed = useLive(orgId, data?.allocations.map((one) => one.user_id) ?? null);
  const look = (changed: Partial<typeof filters>) => {
    change(changed);
    cursor.begin();
  };
  const hasPages = cursor.back !== null || Boolean(data?.next);
  return (
    <Panel
      flush
      title={
        data?.total == null
          ? 'Allocations, in credits'
          : `${data.total.toLocaleString()} allocation${data.total === 1 ? '' : 's'}, in credits`
      }
      aside={<AsOf live={feed.status === 'live'} at={feed.asOf ?? data?.as_of} />}
    >
      <Box
        sx={{
          display: 'flex',
          gap: 1.5,
          px: 2,
          pb: 2,
          pt: 0.5,
          flexWrap: 'wrap',
          '& > *': { flex: '1 1 150px', maxWidth: { sm: 260 } },
        }}
      >
        <SearchField
          label="Search by user id or address"
          value={filters.search}
          onChange={(search) => look({ search })}
        />
        <ChoiceField
          label="End"
          value={filters.ends}
          onChange={(ends) => look({ ends })}
          options={ENDS}
        />
        <ChoiceField
          label="State"
          value={filters.active}
          onChange={(active) => look({ active })}
          options={STATES}
        />
      </Box>
      {refused ? (
        <Box sx={{ p: 2 }}>
          <ErrorState error={refused} again={() => void refetch()} />
        </Box>
      ) : !data ? (
        <Box sx={{ p: 2 }}>
          <Loading height={320} />
        </Box>
      ) : data.allocations.length === 0 ? (
        <EmptyState
          title={filters.search || filters.ends ? 'No such allocation' : 'Nobody has credits yet'}
          action={
            <Button variant="contained" onClick={() => change({ do: 'allocate', for: '' })}>
              Allocate credits
            </Button>
          }
          command={`taximeter admin credits allocate ${orgId} USER 100`}
        >
          Give a member a part of the pool; their requests are then charged to it.
        </EmptyState>
      ) : (
        <Suspense fallback={<Loading height={320} />}>
          <AllocationGrid
            allocations={data.allocations}
            feed={feed}
            sort={filters.sort}
            onSort={(sort) => look({ sort })}
            onMove={(kind, userId) => change({ do: kind, for: userId })}
          />
          {hasPages && (
            <Pager said={`Page ${cursor.page}`} back={cursor.back} next={cursor.to(data.next)} />
          )}
        </Suspense>
      )}
    </Panel>
  );
}
