import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { AmountField } from './AmountField';
import { useMemberBalance } from './balances';
import type { DialogProps } from './CreditTransferDialog';
import { MemberField } from './MemberField';
import { MoveDialog } from './MoveDialog';
import { Preview, type Change } from './Preview';
import { useMove } from './useMove';
import { fetchClient, type Schemas } from '../api/client';
import { formatAmount, fromCredits, minus, parseAmount, toCredits } from '../lib/money';

type Body = Schemas['Deallocation'];

async function deallocate(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/credits/{org_id}/deallocate', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['Deallocated'];
}

/** Returns a member's credits to the pool. */
export function DeallocateDialog({ orgId, user, onClose }: DialogProps) {
  const [from, setFrom] = useState(user);
  const [text, setText] = useState('');
  const balance = useMemberBalance(orgId, from);
  const move = useMove<Body, Schemas['Deallocated']>(`${orgId}/deallocate`, (body, key) =>
    deallocate(orgId, body, key),
  );
  const { amount } = parseAmount(text);
  const tooMuch =
    balance && amount !== null && amount > balance.available
      ? `${formatAmount(balance.available)} can be taken now.`
      : null;
  const isComplete = amount !== null && tooMuch === null && balance !== null;
  const changes: Change[] = isComplete
    ? [{ name: from, before: balance.remaining, after: minus(balance.remaining, amount) }]
    : [];
  return (
    <MoveDialog
      title="Return credits to the pool"
      verb="Return"
      move={move}
      body={isComplete ? { user_id: from, credits: toCredits(amount) } : null}
      describe={(body) => `${formatAmount(fromCredits(body.credits))} credits of ${body.user_id}.`}
      done={(answer) =>
        `${formatAmount(fromCredits(answer.deallocated_credits))} credits of ${answer.user_id} are free again; the pool has ${formatAmount(fromCredits(answer.pool_updated.available_credits))} free.`
      }
      onClose={onClose}
    >
      <MemberField
        orgId={orgId}
        label="From"
        value={from}
        onChange={setFrom}
        balance={balance}
        autoFocus={user === ''}
      />
      <AmountField value={text} onChange={setText} problem={tooMuch} />
      {balance && balance.held > 0 && (
        <Typography variant="body2" sx={{ color: 'text.secondary' }}>
          {formatAmount(balance.held)} credits are held by open requests and stay.
        </Typography>
      )}
      <Preview changes={changes} />
    </MoveDialog>
  );
}
