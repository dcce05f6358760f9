import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { AmountField } from './AmountField';
import type { DialogProps } from './useGiver';
import { MoveDialog } from './MoveDialog';
import { Preview } from './Preview';
import { usePoolFree } from './usePoolFree';
import { useMove } from './useMove';
import { fetchClient, type Schemas } from '../api/client';
import {
  formatAmount,
  formatDollars,
  fromCredits,
  parseAmount,
  plus,
  toCredits,
} from '../lib/money';

type Body = Schemas['Purchase'];

const DOLLARS = /^\d{1,9}(\.\d{1,2})?$/;

async function buy(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/credits/{org_id}/add', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['Purchased'];
}

/** Adds credits that were paid for to the pool. */
export function BuyDialog({ orgId, onClose }: DialogProps) {
  const [text, setText] = useState('');
  const [paid, setPaid] = useState('');
  const [payment, setPayment] = useState('');
  const free = usePoolFree(orgId);
  const move = useMove<Body, Schemas['Purchased']>(`${orgId}/buy`, (body, key) =>
    buy(orgId, body, key),
  );
  const { amount } = parseAmount(text);
  const isPaid = DOLLARS.test(paid);
  return (
    <MoveDialog
      title="Buy credits"
      verb="Buy"
      move={move}
      body={
        amount !== null && isPaid
          ? {
              credits: toCredits(amount),
              purchase_amount: Number(paid),
              ...(payment && { stripe_payment_id: payment }),
            }
          : null
      }
      describe={(body) =>
        `${formatAmount(fromCredits(body.credits))} credits for ${formatDollars(body.purchase_amount)}.`
      }
      done={(answer) =>
        `The pool has ${formatAmount(fromCredits(answer.pool.total_credits))} credits now, ${formatAmount(fromCredits(answer.pool.available_credits))} of them free.`
      }
      onClose={onClose}
    >
      <AmountField value={text} onChange={setText} />
      <TextField
        label="Paid, in dollars"
        value={paid}
        onChange={(event) => setPaid(event.target.value)}
        error={paid !== '' && !isPaid}
        helperText={
          paid !== '' && !isPaid ? 'Digits with at most two decimals, such as 49.00' : ' '
        }
        slotProps={{ htmlInput: { inputMode: 'decimal' } }}
      />
      <TextField
        label="Id of the payment"
        value={payment}
        onChange={(event) => setPayment(event.target.value)}
        helperText="At the payment provider; a payment is booked once"
      />
      {free !== null && amount !== null && (
        <Preview
          changes={[{ name: 'Free in the pool', before: free, after: plus(free, amount) }]}
        />
      )}
    </MoveDialog>
  );
}
