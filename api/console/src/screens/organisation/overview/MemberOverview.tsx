import { api } from '../../../api/client';
import { fromCredits, minus } from '../../../lib/money';
import { formatMoment } from '../../../lib/time';
import { useLive } from '../../../live/useLive';
import { AsOf } from '../../../parts/AsOf';
import { EmptyState } from '../../../parts/EmptyState';
import { Page } from '../../../parts/Page';
import { Panel } from '../../../parts/Panel';
import { PoolBar } from '../../../parts/PoolBar';

interface MemberOverviewProps {
  orgId: string;
  userId: string;
}

/** What a member has in an organisation. */
export function MemberOverview({ orgId, userId }: MemberOverviewProps) {
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/credits/{org_id}/allocations', {
    params: { path: { org_id: orgId }, query: { user_id: userId, is_active: true } },
  });
  const feed = useLive(orgId);
  const allocation = data.allocations[0];
  const live = feed.status === 'live' ? feed.members.get(userId) : undefined;
  if (!allocation) {
    return (
      <Page title="Overview">
        <Panel>
          <EmptyState title="Nothing is allocated to you here">
            An admin of the organisation gives you credits; what you use is then shown here.
          </EmptyState>
        </Panel>
      </Page>
    );
  }
  const allocated = fromCredits(allocation.allocated_credits);
  const remaining = live?.remaining ?? fromCredits(allocation.remaining_credits);
  const held = live?.held ?? fromCredits(allocation.held_credits);
  return (
    <Page
      title="Overview"
      about={
        allocation.expires_at
          ? `Your allocation ${allocation.auto_renew ? 'begins anew' : 'ends'} ${formatMoment(allocation.expires_at)}`
          : undefined
      }
    >
      <Panel
        title="My credits"
        aside={
          <AsOf live={live?.live ?? false} at={feed.asOf ?? data.as_of} complete={data.complete} />
        }
      >
        <PoolBar
          label="My credits"
          parts={[
            {
              name: 'Used',
              amount: minus(allocated, remaining),
              colour: 'used',
              meaning: 'What your requests have cost.',
            },
            {
              name: 'Held',
              amount: held,
              colour: 'held',
              meaning: 'What your open requests keep; most of it comes back.',
            },
            {
              name: 'Left',
              amount: minus(remaining, held),
              colour: 'free',
              meaning: 'What you can spend now.',
            },
          ]}
        />
      </Panel>
    </Page>
  );
}
