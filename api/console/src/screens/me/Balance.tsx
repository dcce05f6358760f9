import Box from '@mui/material/Box';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';

import { endingsOf } from './endings';
import { Invitations } from './Invitations';
import { OrganizationCard } from './OrganizationCard';
import { api } from '../../api/client';
import { fromCredits } from '../../lib/money';
import { Amount, Count } from '../../parts/Amount';
import { AsOf } from '../../parts/AsOf';
import { EmptyState } from '../../parts/EmptyState';
import { Endings } from '../../parts/Endings';
import { Moment } from '../../parts/Moment';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

/** What somebody has left, in all organisations, and what it cost so far. */
export default function Balance() {
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/billing/user');
  const { totals, usage_last_30_days: usage, organizations } = data;
  return (
    <Page title="My credits" about={<AsOf at={data.as_of} complete={data.complete} />}>
      <Panel>
        <Stack direction="row" sx={{ flexWrap: 'wrap', columnGap: 6, rowGap: 2 }}>
          <Figure name="Left to spend" large>
            <Amount of={fromCredits(totals.remaining_credits)} />
          </Figure>
          <Figure name="Used, last 30 days">
            <Amount of={fromCredits(usage.total_credits)} />
          </Figure>
          <Figure name="Requests, last 30 days">
            <Count of={usage.total_requests} />
          </Figure>
          <Figure name="Credits a request">
            <Amount of={fromCredits(usage.avg_cost_per_request)} />
          </Figure>
          <Figure name="Last request">
            <Moment at={usage.last_request_at} as="ago" />
          </Figure>
        </Stack>
      </Panel>
      <Invitations />
      {organizations.length === 0 ? (
        <Panel>
          <EmptyState title="You are in no organisation yet">
            An organisation’s admin adds you by your user id, and gives you credits to spend.
          </EmptyState>
        </Panel>
      ) : (
        <Box
          sx={{
            display: 'grid',
            gap: 2,
            gridTemplateColumns: 'repeat(auto-fill, minmax(min(100%, 340px), 1fr))',
          }}
        >
          {organizations.map((one) => (
            <OrganizationCard key={one.org_id} organization={one} />
          ))}
        </Box>
      )}
      {organizations.length > 0 && (
        <Panel title="What ends when, in credits" flush>
          <Endings
            of="Organisation"
            endings={endingsOf(organizations)}
            empty="None of your credits end by a date"
          />
        </Panel>
      )}
    </Page>
  );
}

function Figure(props: { name: string; large?: boolean; children: React.ReactNode }) {
  return (
    <div>
      <Typography variant="body2" sx={{ color: 'text.secondary' }}>
        {props.name}
      </Typography>
      <Typography
        sx={{
          fontSize: props.large ? '1.75rem' : '1.25rem',
          fontWeight: 600,
          letterSpacing: '-0.02em',
        }}
      >
        {props.children}
      </Typography>
    </div>
  );
}
