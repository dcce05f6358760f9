import Chip from '@mui/material/Chip';
import Tab from '@mui/material/Tab';
import Tabs from '@mui/material/Tabs';
import Typography from '@mui/material/Typography';

import { api } from '../../../api/client';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { formatDollars, fromCredits } from '../../../lib/money';
import { Amount } from '../../../parts/Amount';
import { EmptyState } from '../../../parts/EmptyState';
import { ListPanel, nextOffset, offsetOf } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { useCursor } from '../../../parts/useCursor';

const PAGE = 50;

/** What was bought and subscribed, which credits changed hands, and the invoices. */
export default function History() {
  const orgId = useThisOrg();
  const [filters, change] = useFilters({ show: 'purchases' });
  const shown = ['moves', 'invoices'].includes(filters.show) ? filters.show : 'purchases';
  return (
    <Page title="History">
      <Tabs
        value={shown}
        onChange={(_event, show: string) => change({ show })}
        aria-label="What is shown of the history"
      >
        <Tab value="purchases" label="Purchases" />
        <Tab value="moves" label="Moves" />
        <Tab value="invoices" label="Invoices" />
      </Tabs>
      {shown === 'purchases' && <Purchases orgId={orgId} />}
      {shown === 'moves' && <Moves orgId={orgId} />}
      {shown === 'invoices' && <Invoices orgId={orgId} />}
    </Page>
  );
}

function Purchases({ orgId }: { orgId: string }) {
  const cursor = useCursor();
  const query = api.useQuery('get', '/api/v1/org-billing/billing/{org_id}/history', {
    params: { path: { org_id: orgId }, query: { limit: PAGE, offset: offsetOf(cursor) } },
  });
  return (
    <ListPanel
      label="Purchases"
      query={query}
      rows={query.data?.history}
      keyOf={(one) => one.id}
      cursor={cursor}
      next={query.data && nextOffset(query.data, query.data.history.length)}
      empty={<EmptyState title="Nothing was bought yet" />}
      columns={[
        { name: 'When', cell: (one) => <Moment at={one.created_at} /> },
        { name: 'What', cell: (one) => one.event_type.replaceAll('_', ' ') },
        {
          name: 'Paid',
          figure: true,
          cell: (one) => (one.amount === null ? '–' : formatDollars(one.amount)),
        },
        {
          name: 'Credits',
          figure: true,
          cell: (one) => (one.credits === null ? '–' : <Amount of={fromCredits(one.credits)} />),
        },
        { name: 'State', wide: true, cell: (one) => one.status },
        {
          name: 'Payment',
          wide: true,
          cell: (one) => one.stripe_payment_id ?? one.lago_invoice_id ?? '–',
        },
      ]}
    />
  );
}

function Moves({ orgId }: { orgId: string }) {
  const cursor = useCursor();
  const query = api.useQuery('get', '/api/v1/org-billing/credits/{org_id}/moves', {
    params: { path: { org_id: orgId }, query: { limit: PAGE, offset: offsetOf(cursor) } },
  });
  return (
    <ListPanel
      label="Moves"
      query={query}
      rows={query.data?.moves}
      keyOf={(one) => one.id}
      cursor={cursor}
      next={query.data && nextOffset(query.data, query.data.moves.length)}
      empty={<EmptyState title="No credits have changed hands" />}
      columns={[
        { name: 'When', cell: (one) => <Moment at={one.moved_at} /> },
        { name: 'Kind', wide: true, cell: (one) => one.kind },
        { name: 'From', cell: (one) => one.from_user_id },
        { name: 'To', cell: (one) => one.to_user_id ?? 'the pool' },
        { name: 'Credits', figure: true, cell: (one) => <Amount of={fromCredits(one.credits)} /> },
        { name: 'By', wide: true, cell: (one) => one.moved_by },
      ]}
    />
  );
}

function Invoices({ orgId }: { orgId: string }) {
  const cursor = useCursor();
  const query = api.useQuery('get', '/api/v1/org-billing/billing/{org_id}/invoices', {
    params: { path: { org_id: orgId }, query: { limit: PAGE, offset: offsetOf(cursor) } },
  });
  const { data } = query;
  return (
    <ListPanel
      label="Invoices"
      title="Invoices"
      aside={
        data && (
          <Typography variant="body2">{formatDollars(data.outstanding_balance)} open</Typography>
        )
      }
      query={query}
      rows={data?.invoices}
      keyOf={(one) => one.invoice_id}
      cursor={cursor}
      next={data && nextOffset(data, data.invoices.length)}
      empty={<EmptyState title="No invoice yet" />}
      columns={[
        { name: 'When', cell: (one) => <Moment at={one.at} /> },
        { name: 'Invoice', cell: (one) => one.invoice_id },
        {
          name: 'Amount',
          figure: true,
          cell: (one) => (one.amount === null ? '–' : formatDollars(one.amount)),
        },
        {
          name: 'State',
          cell: (one) => (
            <Chip
              size="small"
              variant="outlined"
              color={one.status === 'paid' ? 'success' : 'error'}
              label={one.status}
            />
          ),
        },
      ]}
    />
  );
}
