import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { AmountField } from './AmountField';
import { useMemberBalance } from './balances';
import type { DialogProps } from './useGiver';
import { MemberField } from './MemberField';
import { MoveDialog } from './MoveDialog';
import { Preview, type Change } from './Preview';
import { usePoolFree } from './usePoolFree';
import { useMove } from './useMove';
import { fetchClient, type Schemas } from '../api/client';
import { formatAmount, fromCredits, minus, parseAmount, plus, toCredits } from '../lib/money';

type Body = Schemas['NewAllocation'];

async function allocate(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/credits/{org_id}/allocate', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['Allocated'];
}

/** Gives a member credits of the pool. */
export function AllocateDialog({ orgId, user, onClose }: DialogProps) {
  const [to, setTo] = useState(user);
  const [text, setText] = useState('');
  const [ends, setEnds] = useState('');
  const free = usePoolFree(orgId);
  const balance = useMemberBalance(orgId, to);
  const move = useMove<Body, Schemas['Allocated']>(`${orgId}/allocate`, (body, key) =>
    allocate(orgId, body, key),
  );
  const { amount } = parseAmount(text);
  const tooMuch =
    free !== null && amount !== null && amount > free ? `${formatAmount(free)} are free.` : null;
  const isComplete = amount !== null && tooMuch === null && balance !== null;
  const changes: Change[] = isComplete
    ? [
        ...(free === null
          ? []
          : [{ name: 'Free in the pool', before: free, after: minus(free, amount) }]),
        { name: to, before: balance.remaining, after: plus(balance.remaining, amount) },
      ]
    : [];
  return (
    <MoveDialog
      title="Allocate credits"
      verb="Allocate"
      move={move}
      body={
        isComplete
          ? {
              user_id: to,
              credits: toCredits(amount),
              ...(ends && { expires_at: new Date(ends).toISOString() }),
            }
          : null
      }
      describe={(body) => `${formatAmount(fromCredits(body.credits))} credits for ${body.user_id}.`}
      done={({ allocation }) =>
        `${allocation.user_id} has ${formatAmount(fromCredits(allocation.remaining_credits))} credits now.`
      }
      onClose={onClose}
    >
      <MemberField
        orgId={orgId}
        label="To"
        value={to}
        onChange={setTo}
        balance={balance}
        autoFocus={user === ''}
      />
      <AmountField value={text} onChange={setText} problem={tooMuch} />
      <TextField
        type="datetime-local"
        label="Ends"
        value={ends}
        onChange={(event) => setEnds(event.target.value)}
        helperText="Your time; left empty, it stays as it is"
        slotProps={{ inputLabel: { shrink: true } }}
      />
      <Preview changes={changes} />
    </MoveDialog>
  );
}
