import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import MenuItem from '@mui/material/MenuItem';
import Stack from '@mui/material/Stack';
import TextField from '@mui/material/TextField';
import { useState, type ChangeEvent, type SyntheticEvent } from 'react';

import { api } from '../../api/client';
import { newKey } from '../../lib/drafts';
import { formatDollars, parseAmount, toCredits } from '../../lib/money';
import { ErrorState } from '../../parts/ErrorState';

const EMPTY = { org_id: '', org_name: '', billing_email: '', user_id: '', credits: '' };

/** A subscription makes the organisation and its admin. One key from opening to answer. */
export function CreateOrganization({ close, done }: { close: () => void; done: () => void }) {
  const [key] = useState(newKey);
  const [fields, setFields] = useState(EMPTY);
  const [plan, setPlan] = useState('starter');
  const plans = api.useQuery('get', '/api/v1/org-billing/plans');
  const post = api.useMutation('post', '/api/v1/org-billing/subscriptions', { onSuccess: done });
  const set = (name: keyof typeof EMPTY) => (event: ChangeEvent<HTMLInputElement>) =>
    setFields({ ...fields, [name]: event.target.value });
  const amount = fields.credits.trim() ? parseAmount(fields.credits) : null;
  const error: unknown = post.error;
  const send = (event: SyntheticEvent) => {
    event.preventDefault();
    if (amount?.problem) return;
    post.mutate({
      params: { header: { 'Idempotency-Key': key } },
      body: {
        org_id: fields.org_id.trim(),
        org_name: fields.org_name.trim(),
        billing_email: fields.billing_email.trim(),
        user_id: fields.user_id.trim(),
        plan_code: plan,
        ...(amount?.amount && { initial_credits: toCredits(amount.amount) }),
      },
    });
  };
  return (
    <Dialog open onClose={close} aria-labelledby="create-title">
      <form onSubmit={send}>
        <DialogTitle id="create-title">New organisation</DialogTitle>
        <DialogContent>
          <Stack sx={{ gap: 2, pt: 1 }}>
            <TextField
              label="Id"
              value={fields.org_id}
              onChange={set('org_id')}
              autoFocus
              required
            />
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
            <TextField
              select
              label="Plan"
              value={plan}
              onChange={(event) => setPlan(event.target.value)}
            >
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
            {error !== null && <ErrorState error={error} />}
          </Stack>
        </DialogContent>
        <DialogActions>
          <Button onClick={close}>Cancel</Button>
          <Button type="submit" variant="contained" disabled={post.isPending}>
            Create
          </Button>
        </DialogActions>
      </form>
    </Dialog>
  );
}
