import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { AmountField } from './AmountField';
import { useMemberBalance } from './balances';
import { MemberField } from './MemberField';
import { MoveDialog } from './MoveDialog';
import { Preview, type Change } from './Preview';
import { useMove } from './useMove';
import { fetchClient, type Schemas } from '../api/client';
import { formatAmount, fromCredits, minus, parseAmount, plus, toCredits } from '../lib/money';

export interface DialogProps {
  orgId: string;
  /** Whom the dialog was opened for, where it was opened at somebody's row. */
  user: string;
  onClose: () => void;
}

type Body = Schemas['Transfer'];

async function transfer(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/credits/{org_id}/transfer', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['Transferred'];
}

/** Moves credits from one member to another, with what both have before and after. */
export function CreditTransferDialog({ orgId, user, onClose }: DialogProps) {
  const [from, setFrom] = useState(user);
  const [to, setTo] = useState('');
  const [text, setText] = useState('');
  const giver = useMemberBalance(orgId, from);
  const taker = useMemberBalance(orgId, to);
  const move = useMove<Body, Schemas['Transferred']>(`${orgId}/transfer`, (body, key) =>
    transfer(orgId, body, key),
  );
  const { amount } = parseAmount(text);
  const tooMuch =
    giver && amount !== null && amount > giver.available
      ? `${formatAmount(giver.available)} can be moved now.`
      : null;
  const isComplete =
    amount !== null && tooMuch === null && giver !== null && taker !== null && from !== to;
  const changes: Change[] = isComplete
    ? [
        { name: `From ${from}`, before: giver.remaining, after: minus(giver.remaining, amount) },
        { name: `To ${to}`, before: taker.remaining, after: plus(taker.remaining, amount) },
      ]
    : [];
  return (
    <MoveDialog
      title="Transfer credits"
      verb="Transfer"
      move={move}
      body={isComplete ? { from_user_id: from, to_user_id: to, credits: toCredits(amount) } : null}
      describe={(body) =>
        `${formatAmount(fromCredits(body.credits))} credits from ${body.from_user_id} to ${body.to_user_id}.`
      }
      done={(answer) =>
        `${formatAmount(fromCredits(answer.transferred_credits))} credits moved from ${answer.from_user_id} to ${answer.to_user_id}.${answer.live ? '' : ' The live balances follow in a moment.'}`
      }
      onClose={onClose}
    >
      <MemberField
        orgId={orgId}
        label="From"
        value={from}
        onChange={setFrom}
        except={to}
        balance={giver}
        autoFocus={user === ''}
      />
      <MemberField
        orgId={orgId}
        label="To"
        value={to}
        onChange={setTo}
        except={from}
        balance={taker}
        autoFocus={user !== ''}
      />
      <AmountField value={text} onChange={setText} problem={tooMuch} />
      {giver && giver.held > 0 && (
        <Typography variant="body2" sx={{ color: 'text.secondary' }}>
          {formatAmount(giver.held)} credits are held by open requests of {from} and stay there.
        </Typography>
      )}
      <Preview changes={changes} />
    </MoveDialog>
  );
}
