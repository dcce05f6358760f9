import { MoveDialog } from './MoveDialog';
import { Preview } from './Preview';
import { useGiver, type DialogProps } from './useGiver';
import { useMove } from './useMove';
import { fetchClient, type Schemas } from '../api/client';
import { formatAmount, fromCredits, minus, toCredits } from '../lib/money';

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
  const { from, taken, fromField, amountField } = useGiver(orgId, user, 'taken');
  const move = useMove<Body, Schemas['Deallocated']>(`${orgId}/deallocate`, (body, key) =>
    deallocate(orgId, body, key),
  );
  return (
    <MoveDialog
      title="Return credits to the pool"
      verb="Return"
      move={move}
      body={taken && { user_id: from, credits: toCredits(taken.amount) }}
      describe={(body) => `${formatAmount(fromCredits(body.credits))} credits of ${body.user_id}.`}
      done={(answer) =>
        `${formatAmount(fromCredits(answer.deallocated_credits))} credits of ${answer.user_id} are free again; the pool has ${formatAmount(fromCredits(answer.pool_updated.available_credits))} free.`
      }
      onClose={onClose}
    >
      {fromField()}
      {amountField}
      <Preview
        changes={
          taken
            ? [
                {
                  name: from,
                  before: taken.balance.remaining,
                  after: minus(taken.balance.remaining, taken.amount),
                },
              ]
            : []
        }
      />
    </MoveDialog>
  );
}
