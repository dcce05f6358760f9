import { useState } from 'react';

import { useMemberBalance } from './balances';
import { MemberField } from './MemberField';
import { MoveDialog } from './MoveDialog';
import { Preview } from './Preview';
import { useGiver, type DialogProps } from './useGiver';
import { useMove } from './useMove';
import { fetchClient, type Schemas } from '../api/client';
import { formatAmount, fromCredits, minus, plus, toCredits } from '../lib/money';

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
  const { from, taken, fromField, amountField } = useGiver(orgId, user, 'moved');
  const [to, setTo] = useState('');
  const taker = useMemberBalance(orgId, to);
  const move = useMove<Body, Schemas['Transferred']>(`${orgId}/transfer`, (body, key) =>
    transfer(orgId, body, key),
  );
  const complete = taken && taker && from !== to ? { ...taken, taker } : null;
  return (
    <MoveDialog
      title="Transfer credits"
      verb="Transfer"
      move={move}
      body={complete && { from_user_id: from, to_user_id: to, credits: toCredits(complete.amount) }}
      describe={(body) =>
        `${formatAmount(fromCredits(body.credits))} credits from ${body.from_user_id} to ${body.to_user_id}.`
      }
      done={(answer) =>
        `${formatAmount(fromCredits(answer.transferred_credits))} credits moved from ${answer.from_user_id} to ${answer.to_user_id}.${answer.live ? '' : ' The live balances follow in a moment.'}`
      }
      onClose={onClose}
    >
      {fromField({ except: to })}
      <MemberField
        orgId={orgId}
        label="To"
        value={to}
        onChange={setTo}
        except={from}
        balance={taker}
        autoFocus={user !== ''}
      />
      {amountField}
      <Preview
        changes={
          complete
            ? [
                {
                  name: `From ${from}`,
                  before: complete.balance.remaining,
                  after: minus(complete.balance.remaining, complete.amount),
                },
                {
                  name: `To ${to}`,
                  before: complete.taker.remaining,
                  after: plus(complete.taker.remaining, complete.amount),
                },
              ]
            : []
        }
      />
    </MoveDialog>
  );
}
