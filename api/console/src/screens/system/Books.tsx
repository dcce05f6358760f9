import Alert from '@mui/material/Alert';
import Chip from '@mui/material/Chip';

import { DeadLetters } from './DeadLetters';
import { LostEvents } from './LostEvents';
import { Proofs } from './Proofs';
import { Rows } from '../../parts/Rows';
import { api } from '../../api/client';
import { Count } from '../../parts/Amount';
import { Moment } from '../../parts/Moment';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

const AGAIN_MS = 10_000;

/** Whether the books are right, and what waits for somebody. */
export default function Books() {
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/system/books', undefined, {
    refetchInterval: AGAIN_MS,
  });
  return (
    <Page title="Books">
      <Proofs books={data} />
      <Drift drift={data.drift} />
      <Panel title="Shards" flush>
        <Rows
          label="Shards"
          rows={data.shards}
          keyOf={(one) => String(one.shard)}
          columns={[
            { name: 'Shard', cell: (one) => one.shard },
            {
              name: 'State',
              cell: (one) => (
                <Chip
                  size="small"
                  variant="outlined"
                  color={one.status === 'ok' ? 'success' : 'error'}
                  label={one.reason ?? one.status}
                />
              ),
            },
            {
              name: 'Lag, s',
              figure: true,
              cell: (one) => one.settlement_lag_s.toFixed(1),
            },
            {
              name: 'To settle',
              figure: true,
              cell: (one) => <Count of={one.unsettled_events} />,
            },
            {
              name: 'Settled up to',
              figure: true,
              wide: true,
              cell: (one) => (
                <>
                  {one.epoch}-{one.settled_seq}
                </>
              ),
            },
            {
              name: 'Entries to relay',
              figure: true,
              wide: true,
              cell: (one) => <Count of={one.unapplied_entries} />,
            },
            { name: 'Open holds', figure: true, cell: (one) => <Count of={one.open_holds} /> },
            { name: 'Last', wide: true, cell: (one) => <Moment at={one.settled_at} as="ago" /> },
          ]}
        />
      </Panel>
      <DeadLetters counts={data.dead_letters} />
      <LostEvents lost={data.lost_events} />
    </Page>
  );
}

function Drift({ drift }: { drift: { is_wrong: boolean; since: string } | null }) {
  if (!drift?.is_wrong)
    return (
      <Alert severity="success" variant="outlined">
        No drift is on record: the settler compares all live balances with the books every minute.
      </Alert>
    );
  return (
    <Alert severity="error" variant="outlined">
      Live balances and books differ since <Moment at={drift.since} />: run{' '}
      <code>taximeter check</code>.
    </Alert>
  );
}
