import Box from '@mui/material/Box';
import Chip from '@mui/material/Chip';
import type { ReactNode } from 'react';

import { api, type Schemas } from '../../../api/client';
import { useParameter, useThisOrg } from '../../../app/addresses';
import { fromCredits } from '../../../lib/money';
import { Amount } from '../../../parts/Amount';
import { AsOf } from '../../../parts/AsOf';
import { EmptyState } from '../../../parts/EmptyState';
import { CopyButton } from '../../../parts/CopyButton';
import { Go } from '../../../parts/Go';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { Panel } from '../../../parts/Panel';
import { Rows } from '../../../parts/Rows';

/** What became of one request: its hold, its price, its charge, and where it is in the books. */
export default function Story() {
  const orgId = useThisOrg();
  const requestId = useParameter('requestId');
  const { data } = api.useSuspenseQuery(
    'get',
    '/api/v1/org-billing/credits/{org_id}/requests/{request_id}',
    { params: { path: { org_id: orgId, request_id: requestId } } },
  );
  return (
    <Page
      title="Request"
      about={<AsOf at={data.as_of} complete={data.complete} live={data.live} />}
      actions={
        <Go to={`/o/${encodeURIComponent(orgId)}/requests`} sx={{ alignSelf: 'center' }}>
          All requests
        </Go>
      }
    >
      <Panel title="In short">
        <Facts
          facts={[
            ['Id', <Id key="id" text={data.request_id} />],
            ['State', <Chip key="state" size="small" label={data.state} />],
            ['In the books', data.settlement],
            ['User', data.user_id ?? '–'],
            [
              'Cost, in credits',
              data.cost_credits === null ? (
                '–'
              ) : (
                <Amount key="cost" of={fromCredits(data.cost_credits)} />
              ),
            ],
          ]}
        />
      </Panel>
      {data.hold && <HoldPanel hold={data.hold} />}
      {data.charges.map((charge) => (
        <ChargePanel key={charge.id} charge={charge} />
      ))}
      {data.bookings.length > 0 && (
        <Panel title="Where it is in the books" flush>
          <Rows
            label="Where it is in the books"
            rows={data.bookings}
            keyOf={(one) => `${one.phase}/${String(one.shard)}/${String(one.seq)}`}
            columns={[
              {
                name: 'Part',
                cell: (one) => (one.by_expiry ? `${one.phase}, as its hold expired` : one.phase),
              },
              {
                name: 'Credits',
                figure: true,
                cell: (one) => <Amount of={fromCredits(one.credits)} />,
              },
              { name: 'Charged', cell: (one) => <Moment at={one.charged_at} /> },
              {
                name: 'Event',
                wide: true,
                cell: (one) =>
                  one.seq === null
                    ? '–'
                    : `shard ${String(one.shard)}, epoch ${String(one.epoch)}, number ${String(one.seq)}`,
              },
              {
                name: 'Booked in one transaction',
                wide: true,
                cell: (one) =>
                  one.batch && (
                    <>
                      {one.batch.events.toLocaleString()} events, {one.batch.seq_first}–
                      {one.batch.seq_last}, <Moment at={one.batch.settled_at} as="clock" />
                    </>
                  ),
              },
            ]}
          />
        </Panel>
      )}
      {data.refunds.length > 0 && (
        <Panel title="Given back" flush>
          <Rows
            label="Given back"
            rows={data.refunds}
            keyOf={(one) => one.refunded_at}
            columns={[
              { name: 'When', cell: (one) => <Moment at={one.refunded_at} /> },
              {
                name: 'Credits',
                figure: true,
                cell: (one) => <Amount of={fromCredits(one.credits)} />,
              },
              { name: 'By', cell: (one) => one.refunded_by ?? '–' },
              { name: 'Why', cell: (one) => one.reason ?? '–' },
            ]}
          />
        </Panel>
      )}
      {data.state === 'unknown' && (
        <Panel>
          <EmptyState title="Nothing is known of this request">
            It was never begun here, or it was released so long ago that it is forgotten.
          </EmptyState>
        </Panel>
      )}
    </Page>
  );
}

function HoldPanel({ hold }: { hold: Schemas['OpenHold'] }) {
  return (
    <Panel title="Hold, still open">
      <Facts
        facts={[
          ['Held, in credits', <Amount key="held" of={fromCredits(hold.held_credits)} />],
          ['Reported so far', <Amount key="reported" of={fromCredits(hold.reported_credits)} />],
          ['Deadline', <Moment key="deadline" at={hold.deadline} />],
          ['Opened by', hold.opened_by ?? '–'],
        ]}
      />
    </Panel>
  );
}

function ChargePanel({ charge }: { charge: Schemas['SettledRequest'] }) {
  const { price } = charge;
  const tokens = Object.entries(charge.metadata).filter(([, value]) => typeof value !== 'object');
  return (
    <Panel title={charge.late ? 'Charge, after its hold had ended' : 'Charge'}>
      <Facts
        facts={[
          ['When', <Moment key="when" at={charge.created_at} />],
          ['Model or service', charge.service_name],
          ['Credits', <Amount key="credits" of={fromCredits(charge.credits_used)} />],
          ['Held before', <Amount key="held" of={fromCredits(charge.reserved_credits)} />],
          ...(price
            ? ([
                ['Price of', price.of ?? charge.service_name],
                ['Price from', `${price.source}, version ${price.version}`],
              ] as const)
            : []),
          ...tokens.map(([name, value]) => [name.replaceAll('_', ' '), String(value)] as const),
        ]}
      />
    </Panel>
  );
}

function Facts({ facts }: { facts: readonly (readonly [string, ReactNode])[] }) {
  return (
    <Box
      component="dl"
      sx={{
        display: 'grid',
        gridTemplateColumns: 'repeat(auto-fill, minmax(min(100%, 180px), 1fr))',
        gap: 2,
        m: 0,
      }}
    >
      {facts.map(([name, value]) => (
        <Box key={name} sx={{ minWidth: 0 }}>
          <Box component="dt" sx={{ color: 'text.secondary', fontSize: '0.8125rem' }}>
            {name}
          </Box>
          <Box component="dd" sx={{ m: 0, overflowWrap: 'anywhere', fontWeight: 500 }}>
            {value}
          </Box>
        </Box>
      ))}
    </Box>
  );
}

function Id({ text }: { text: string }) {
  return (
    <>
      {text} <CopyButton text={text} label="Copy the id" />
    </>
  );
}
