import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { api, fetchClient, type Schemas } from '../../../api/client';
import { formatDollars } from '../../../lib/money';
import { formatDay } from '../../../lib/time';
import { MoveDialog } from '../../../moves/MoveDialog';
import { useMove } from '../../../moves/useMove';
import { ChoiceField } from '../../../parts/FilterField';

interface UpgradeDialogProps {
  orgId: string;
  subscription: Schemas['SubscriptionView'];
  onClose: () => void;
}

const WHEN = [
  ['now', 'now, for the days that are left of this period'],
  ['later', 'from the next period on'],
] as const;

type Body = Schemas['Upgrade'];

async function upgrade(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.PUT('/api/v1/org-billing/subscriptions/{org_id}/upgrade', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['Upgraded'];
}

/** Moves to a larger plan: the API has no way to a smaller one. It is billed, so it is sent once. */
export function UpgradeDialog({ orgId, subscription, onClose }: UpgradeDialogProps) {
  const { data } = api.useQuery('get', '/api/v1/org-billing/plans');
  const [chosen, setChosen] = useState('');
  const [when, setWhen] = useState('now');
  const move = useMove<Body, Schemas['Upgraded']>(`${orgId}/upgrade`, (body, key) =>
    upgrade(orgId, body, key),
  );
  const larger = (data?.plans ?? []).filter(
    (one) => one.monthly_price > subscription.monthly_price,
  );
  const plan = larger.find((one) => one.plan_code === chosen) ?? larger[0];
  return (
    <MoveDialog
      title="Change the plan"
      verb="Change"
      move={move}
      body={plan ? { new_plan_code: plan.plan_code, effective_immediately: when === 'now' } : null}
      describe={(body) => `The change to ${body.new_plan_code}.`}
      done={({ subscription: after, price_change: price }) =>
        after.pending_plan_code
          ? `From ${formatDay(after.billing_cycle_end)} on the plan is ${after.pending_plan_code}.`
          : `The plan is ${after.plan_name} now. This period costs ${formatDollars(price.proration)} more.`
      }
      onClose={onClose}
    >
      {data && larger.length === 0 ? (
        <Typography>
          {subscription.plan_name} is the largest plan. To move to a smaller one, cancel this one
          and have a system admin subscribe the organisation anew.
        </Typography>
      ) : (
        <>
          <ChoiceField
            label="Plan"
            value={plan?.plan_code ?? ''}
            onChange={setChosen}
            options={larger.map((one) => [
              one.plan_code,
              `${one.plan_name}, ${formatDollars(one.monthly_price)} a month`,
            ])}
          />
          <ChoiceField label="From when" value={when} onChange={setWhen} options={WHEN} />
          {plan && (
            <Typography variant="body2" sx={{ color: 'text.secondary' }}>
              {formatDollars(subscription.monthly_price)} a month becomes{' '}
              {formatDollars(plan.monthly_price)}. Credits stay what they are.
            </Typography>
          )}
        </>
      )}
    </MoveDialog>
  );
}
