import Button from '@mui/material/Button';

import { api, type Schemas } from '../../../api/client';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { csvText, downloadCsv } from '../../../lib/csv';
import { fromCredits, plainText } from '../../../lib/money';
import { Amount } from '../../../parts/Amount';
import { AsOf } from '../../../parts/AsOf';
import { EmptyState } from '../../../parts/EmptyState';
import { ChoiceField, DayField, FilterField } from '../../../parts/FilterField';
import { Go } from '../../../parts/Go';
import { DownloadIcon } from '../../../parts/icons';
import { ListPanel } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { useCursor } from '../../../parts/useCursor';

const FILTERS = { from: '', to: '', user: '', service: '', request: '', late: '' };
const LATE = [
  ['', 'all'],
  ['true', 'late charges'],
  ['false', 'in time'],
] as const;

/** Single charges, the newest first. */
export default function Requests() {
  const orgId = useThisOrg();
  const [filters, change] = useFilters(FILTERS);
  const cursor = useCursor();
  const query = api.useQuery(
    'get',
    '/api/v1/org-billing/credits/{org_id}/requests',
    {
      params: {
        path: { org_id: orgId },
        query: {
          limit: 50,
          ...(filters.from && { start_date: filters.from }),
          ...(filters.to && { end_date: filters.to }),
          ...(filters.user && { user_id: filters.user }),
          ...(filters.service && { service_name: filters.service }),
          ...(filters.request && { request_id: filters.request }),
          ...(filters.late && { late: filters.late === 'true' }),
          ...(cursor.at && { cursor: cursor.at }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const { data } = query;
  const look = (changed: Partial<typeof FILTERS>) => {
    change(changed);
    cursor.begin();
  };
  const isNarrowed = Object.values(filters).some(Boolean);
  return (
    <Page
      title="Requests"
      about={data && <AsOf at={data.as_of} complete={data.complete} />}
      actions={
        <Button
          variant="outlined"
          startIcon={<DownloadIcon />}
          disabled={!data || data.requests.length === 0}
          onClick={() => data && download(orgId, data.requests)}
        >
          CSV of what is shown
        </Button>
      }
    >
      <ListPanel
        label="Requests"
        query={query}
        rows={data?.requests}
        keyOf={(one) => one.id}
        cursor={cursor}
        next={data?.next}
        filters={
          <>
            <DayField label="From" value={filters.from} onChange={(from) => look({ from })} />
            <DayField label="To" value={filters.to} onChange={(to) => look({ to })} />
            <FilterField label="User id" value={filters.user} onChange={(user) => look({ user })} />
            <FilterField
              label="Model or service"
              value={filters.service}
              onChange={(service) => look({ service })}
            />
            <FilterField
              label="Request id"
              value={filters.request}
              onChange={(request) => look({ request })}
            />
            <ChoiceField
              label="Charged"
              value={filters.late}
              onChange={(late) => look({ late })}
              options={LATE}
            />
          </>
        }
        empty={
          data?.next ? (
            <EmptyState title="Nothing like this so far">
              One page looks at a bounded number of requests. Older ones are on the next page.
            </EmptyState>
          ) : isNarrowed ? (
            <EmptyState
              title="No request is like this"
              action={<Button onClick={() => look(FILTERS)}>Show all</Button>}
            />
          ) : (
            <EmptyState title="No requests yet">
              What members’ requests cost appears here about a second after they end.
            </EmptyState>
          )
        }
        columns={[
          { name: 'When', cell: (one) => <Moment at={one.created_at} as="clock" /> },
          { name: 'User', cell: (one) => one.user_id },
          { name: 'Model or service', cell: (one) => one.service_name },
          {
            name: 'Credits',
            figure: true,
            cell: (one) => <Amount of={fromCredits(one.credits_used)} sx={{ fontWeight: 600 }} />,
          },
          {
            name: 'Held',
            figure: true,
            wide: true,
            cell: (one) => <Amount of={fromCredits(one.reserved_credits)} />,
          },
          {
            name: 'Request',
            wide: true,
            cell: (one) => one.request_id && <StoryLink orgId={orgId} requestId={one.request_id} />,
          },
        ]}
      />
    </Page>
  );
}

export function StoryLink({ orgId, requestId }: { orgId: string; requestId: string }) {
  return (
    <Go to={`/o/${encodeURIComponent(orgId)}/requests/${encodeURIComponent(requestId)}`}>
      {requestId}
    </Go>
  );
}

function download(orgId: string, requests: readonly Schemas['SettledRequest'][]): void {
  const text = csvText(
    [
      { title: 'created_at', text: (one) => one.created_at },
      { title: 'user_id', text: (one) => one.user_id },
      { title: 'service_type', text: (one) => one.service_type },
      { title: 'service_name', text: (one) => one.service_name },
      { title: 'credits_used', text: (one) => plainText(fromCredits(one.credits_used)) },
      { title: 'request_id', text: (one) => one.request_id ?? '' },
    ],
    requests,
  );
  downloadCsv(`requests-${orgId}`, text);
}
