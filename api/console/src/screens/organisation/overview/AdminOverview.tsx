import Box from '@mui/material/Box';
import Button from '@mui/material/Button';
import { lazy, Suspense } from 'react';

import { Attention } from './Attention';
import { concernsOf } from './attention';
import { DailyCredits } from './DailyCredits';
import { EndingPanel } from './EndingPanel';
import { MembersPanel } from './MembersPanel';
import { PoolPanel } from './PoolPanel';
import { burnOf, daysLeft, lastsInWords, leftOf, settledPool } from './pool';
import { api } from '../../../api/client';
import { useFilters } from '../../../app/addresses';
import { fromCredits, plus } from '../../../lib/money';
import { utcDayBefore } from '../../../lib/time';
import { useLive } from '../../../live/useLive';
import { GoButton } from '../../../parts/Go';
import { Page } from '../../../parts/Page';
import { totalsOf } from '../usage/series';

const MoveDialogs = lazy(() => import('../../../moves/MoveDialogs'));

const MEMBERS_SHOWN = 10;
const DAYS = 30;

/** How much is left and how long it lasts, who spends it, and what needs somebody. */
export function AdminOverview({ orgId }: { orgId: string }) {
  const [filters, change] = useFilters({ do: '' });
  const path = { org_id: orgId };
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/billing/org/{org_id}', {
    params: { path },
  });
  const { data: usage } = api.useQuery('get', '/api/v1/org-billing/credits/{org_id}/usage/series', {
    params: {
      path,
      query: {
        start_date: utcDayBefore(DAYS - 1),
        end_date: utcDayBefore(0),
        by: 'service',
        step: 'day',
      },
    },
  });
  const members = data.user_allocations.slice(0, MEMBERS_SHOWN);
  const feed = useLive(
    orgId,
    members.map((one) => one.user_id),
  );
  const held = plus(...data.user_allocations.map((one) => fromCredits(one.held_credits)));
  const pool = feed.pool ?? settledPool(data.credit_pool, held);
  const burn = usage ? burnOf(totalsOf(usage)) : null;
  const days = burn && daysLeft(leftOf(pool), burn);
  return (
    <Page
      title="Overview"
      about={data.organization.org_name}
      actions={
        <>
          <Button variant="outlined" onClick={() => change({ do: 'buy' })}>
            Buy credits
          </Button>
          <GoButton
            variant="contained"
            to={`/o/${encodeURIComponent(orgId)}/members`}
            search={{ do: 'allocate' }}
          >
            Allocate
          </GoButton>
        </>
      }
    >
      <PoolPanel pool={pool} feed={feed} settled={data} lasts={lastsInWords(days)} />
      <Box
        sx={{
          display: 'grid',
          gap: 2,
          gridTemplateColumns: { xs: 'minmax(0, 1fr)', md: 'minmax(0, 2fr) minmax(0, 1fr)' },
        }}
      >
        <DailyCredits usage={usage} />
        <Attention concerns={concernsOf(data, days)} />
      </Box>
      <MembersPanel
        orgId={orgId}
        members={members}
        total={data.user_allocations_total}
        feed={feed}
      />
      <EndingPanel orgId={orgId} allocations={data.ending_allocations} />
      <Suspense>{filters.do && <MoveDialogs orgId={orgId} />}</Suspense>
    </Page>
  );
}
