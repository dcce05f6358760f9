import Alert from '@mui/material/Alert';
import Box from '@mui/material/Box';
import Button from '@mui/material/Button';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { UpgradeDialog } from './UpgradeDialog';
import { api, fetchClient, type Schemas } from '../../../api/client';
import { Refusal } from '../../../api/refusal';
import { newKey } from '../../../lib/drafts';
import { formatDollars } from '../../../lib/money';
import { formatDay } from '../../../lib/time';
import { Confirm } from '../../../parts/Confirm';
import { EmptyState } from '../../../parts/EmptyState';
import { ErrorState } from '../../../parts/ErrorState';
import { Loading } from '../../../parts/Loading';
import { Panel } from '../../../parts/Panel';

/** The plan, and ending it at the end of the period, which can be undone until then. */
export function SubscriptionPanel({ orgId }: { orgId: string }) {
  const { data, error, refetch } = api.useQuery(
    'get',
    '/api/v1/org-billing/subscriptions/{org_id}',
    { params: { path: { org_id: orgId } } },
  );
  const refused: unknown = error;
  if (refused instanceof Refusal && refused.status === 404) {
    return (
      <Panel title="Subscription">
        <EmptyState title="No subscription">A system admin makes one.</EmptyState>
      </Panel>
    );
  }
  return (
    <Panel title="Subscription">
      {refused ? (
        <ErrorState error={refused} again={() => void refetch()} />
      ) : !data ? (
        <Loading />
      ) : (
        <Plan orgId={orgId} details={data} />
      )}
    </Panel>
  );
}

function Plan({ orgId, details }: { orgId: string; details: Schemas['SubscriptionDetails'] }) {
  const { subscription, next_billing_date: next, outstanding_balance: open } = details;
  const ends = subscription.cancel_at_period_end;
  // The key of the opened question: a new one each time it is opened.
  const [asking, setAsking] = useState<string | null>(null);
  const [changing, setChanging] = useState(false);
  const params = { path: { org_id: orgId }, header: { 'Idempotency-Key': asking } };
  return (
    <Box sx={{ display: 'grid', gap: 1.5, justifyItems: 'start' }}>
      <Typography>
        <strong>{subscription.plan_name}</strong>, {formatDollars(subscription.monthly_price)} a
        month, {subscription.status}
        {next && `, next bill ${formatDay(next)}`}
      </Typography>
      {open > 0 && <Alert severity="warning">{formatDollars(open)} are open.</Alert>}
      {ends && (
        <Alert severity="info">
          It ends with its period, on {formatDay(subscription.billing_cycle_end)}.
        </Alert>
      )}
      {subscription.pending_plan_code && (
        <Alert severity="info">
          From {formatDay(subscription.billing_cycle_end)} on the plan is{' '}
          {subscription.pending_plan_code}.
        </Alert>
      )}
      <Stack direction="row" sx={{ gap: 1, flexWrap: 'wrap' }}>
        {!ends && (
          <Button variant="outlined" onClick={() => setChanging(true)}>
            Change the plan
          </Button>
        )}
        <Button
          variant="outlined"
          color={ends ? 'primary' : 'error'}
          onClick={() => setAsking(newKey())}
        >
          {ends ? 'Undo the cancellation' : 'Cancel the subscription'}
        </Button>
      </Stack>
      {changing && (
        <UpgradeDialog
          orgId={orgId}
          subscription={subscription}
          onClose={() => setChanging(false)}
        />
      )}
      {asking !== null && (
        <Confirm
          title={ends ? 'Undo the cancellation?' : 'Cancel the subscription?'}
          verb={ends ? 'Undo it' : 'Cancel it'}
          said={ends ? 'The subscription goes on.' : 'The subscription ends with its period.'}
          act={() =>
            ends
              ? fetchClient.POST('/api/v1/org-billing/subscriptions/{org_id}/resume', { params })
              : fetchClient.DELETE('/api/v1/org-billing/subscriptions/{org_id}', { params })
          }
          onClose={() => setAsking(null)}
        >
          {ends
            ? 'It is billed again from the next period on.'
            : `Until ${formatDay(subscription.billing_cycle_end)} everything works as it does now, and it can be undone.`}
        </Confirm>
      )}
    </Box>
  );
}
