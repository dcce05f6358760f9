import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';

import { leftOf, partsOf } from './pool';
import type { Schemas } from '../../../api/client';
import type { FeedState, LivePool } from '../../../live/feed';
import { Amount } from '../../../parts/Amount';
import { AsOf } from '../../../parts/AsOf';
import { Panel } from '../../../parts/Panel';
import { PoolBar } from '../../../parts/PoolBar';

interface PoolPanelProps {
  pool: LivePool;
  feed: FeedState;
  settled: Schemas['OrganizationDashboard'];
  /** How long it lasts, in words. */
  lasts?: string | undefined;
}

/** The pool as one bar, and how long it lasts. */
export function PoolPanel({ pool, feed, settled, lasts }: PoolPanelProps) {
  return (
    <Panel
      title="Pool"
      aside={
        <AsOf
          live={feed.status === 'live'}
          at={feed.asOf ?? settled.as_of}
          complete={settled.complete}
        />
      }
    >
      <Stack
        direction="row"
        sx={{ alignItems: 'baseline', flexWrap: 'wrap', columnGap: 1.5, mb: 1.5 }}
      >
        <Typography
          component="p"
          sx={{ fontSize: '1.875rem', fontWeight: 620, letterSpacing: '-0.025em', lineHeight: 1.2 }}
        >
          <Amount of={leftOf(pool)} />
        </Typography>
        <Typography sx={{ color: 'text.secondary' }}>
          of <Amount of={pool.total} /> credits left{lasts ? `, ${lasts}` : ''}
        </Typography>
      </Stack>
      <PoolBar label="Pool" parts={partsOf(pool)} />
    </Panel>
  );
}
