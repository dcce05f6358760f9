import type { Schemas } from '../../../api/client';
import { fromCredits } from '../../../lib/money';
import { Endings } from '../../../parts/Endings';
import { Go } from '../../../parts/Go';
import { Panel } from '../../../parts/Panel';

const SHOWN = 5;

interface EndingPanelProps {
  orgId: string;
  allocations: readonly Schemas['AllocationView'][];
}

/** Which members' credits end next, and how much of them is left as settled. */
export function EndingPanel({ orgId, allocations }: EndingPanelProps) {
  if (allocations.length === 0) return null;
  const address = `/o/${encodeURIComponent(orgId)}/members`;
  return (
    <Panel
      title="What ends when, in credits"
      flush
      aside={
        <Go to={address} search={{ sort: 'expires_at', ends: 'true' }}>
          All that ends
        </Go>
      }
    >
      <Endings
        of="Member"
        empty="Nothing ends"
        endings={allocations.slice(0, SHOWN).map((one) => ({
          id: one.id,
          name: one.user_email ?? one.user_id,
          at: one.expires_at ?? '',
          amount: fromCredits(one.remaining_credits),
          renews: one.auto_renew,
        }))}
      />
    </Panel>
  );
}
