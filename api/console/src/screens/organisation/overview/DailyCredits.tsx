import Typography from '@mui/material/Typography';
import { lazy, Suspense } from 'react';

import type { Schemas } from '../../../api/client';
import { EmptyState } from '../../../parts/EmptyState';
import { Loading } from '../../../parts/Loading';
import { Panel } from '../../../parts/Panel';
import { stacksOf } from '../usage/series';

const StackedBars = lazy(() => import('../../../parts/StackedBars'));
const HEIGHT = 240;

/** What was used on each of the last days; today is not over. */
export function DailyCredits({ usage }: { usage: Schemas['UsageSeries'] | undefined }) {
  return (
    <Panel
      title="Credits a day, by service"
      aside={
        <Typography variant="caption" sx={{ color: 'text.secondary' }}>
          30 days in UTC, today so far is hatched
        </Typography>
      }
    >
      {!usage ? (
        <Loading height={HEIGHT} />
      ) : usage.series.length === 0 ? (
        <EmptyState title="Nothing was used in the last 30 days">
          Requests of members appear here a second after they end.
        </EmptyState>
      ) : (
        <Suspense fallback={<Loading height={HEIGHT} />}>
          <StackedBars
            periods={usage.periods}
            stacks={stacksOf(usage)}
            label="Credits a day of the last 30 days"
            openEnded
            height={HEIGHT}
          />
        </Suspense>
      )}
    </Panel>
  );
}
