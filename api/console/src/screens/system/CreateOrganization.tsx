import MenuItem from '@mui/material/MenuItem';
import TextField from '@mui/material/TextField';
import { useState, type ChangeEvent } from 'react';

import { api, fetchClient, type Schemas } from '../../api/client';
import { formatDollars, parseAmount, toCredits } from '../../lib/money';
import { MoveDialog } from '../../moves/MoveDialog';
import { useMove } from '../../moves/useMove';

type Body = Schemas['NewSubscription'];

const EMPTY = { org_id: '', org_name: '', billing_email: '', user_id: '', credits: '' };
const REQUIRED = ['org_id', 'org_name', 'billing_email', 'user_id'] as const;

async function subscribe(body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/subscriptions', {
    params: { header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['SubscriptionCreated'];
}

/** A subscription makes the organisation and its admin. One key from opening to answer. */
export function CreateOrganization({ close }: { close: () => void }) {
  const [fields, setFields] = useState(EMPTY);
  const [plan, setPlan] = useState('starter');
  const plans = api.useQuery('get', '/api/v1/org-billing/plans');
  const move = useMove<Body, Schemas['SubscriptionCreated']>('organisation', subscribe);
  const set = (name: keyof typeof EMPTY) => (event: ChangeEvent<HTMLInputElement>) =>
    setFields({ ...fields, [name]: event.target.value });
  const amount = fields.credits.trim() ? parseAmount(fields.credits) : null;
  const isReady = REQUIRED.every((name) => fields[name].trim() !== '') && !amount?.problem;
  return (
    <MoveDialog
      title="New organisation"
      verb="Create"
      move={move}
      body={
        isReady
          ? {
              org_id: fields.org_id.trim(),
              org_name: fields.org_name.trim(),
              billing_email: fields.billing_email.trim(),
              user_id: fields.user_id.trim(),
              plan_code: plan,
              ...(amount?.amount && { initial_credits: toCredits(amount.amount) }),
            }
          : null
      }
      describe={(body) => `The organisation “${body.org_name}”.`}
      done={() => `“${fields.org_name.trim()}” is there.`}
      onClose={close}
    >
      <TextField label="Id" value={fields.org_id} onChange={set('org_id')} autoFocus required />
      <TextField label="Name" value={fields.org_name} onChange={set('org_name')} required />
      <TextField
        label="Billing e-mail"
        type="email"
        value={fields.billing_email}
        onChange={set('billing_email')}
        required
      />
      <TextField
        label="Its first admin, by user id"
        value={fields.user_id}
        onChange={set('user_id')}
        required
      />
      <TextField select label="Plan" value={plan} onChange={(event) => setPlan(event.target.value)}>
        {(plans.data?.plans ?? [{ plan_code: plan, plan_name: plan, monthly_price: 0 }]).map(
          (one) => (
            <MenuItem key={one.plan_code} value={one.plan_code}>
              {one.plan_name}, {formatDollars(one.monthly_price)} a month
            </MenuItem>
          ),
        )}
      </TextField>
      <TextField
        label="Credits to start with"
        value={fields.credits}
        onChange={set('credits')}
        error={Boolean(amount?.problem)}
        helperText={amount?.problem ?? 'May be left empty'}
      />
    </MoveDialog>
  );
}
