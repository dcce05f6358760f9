import Box from '@mui/material/Box';
import Button from '@mui/material/Button';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';
import { lazy, Suspense } from 'react';

import { nameOf, stacksOf } from './series';
import { api, type Schemas } from '../../../api/client';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { csvText, downloadCsv } from '../../../lib/csv';
import { fromCredits, percentOf, plainText } from '../../../lib/money';
import { formatDay, reachesToday, utcDayBefore } from '../../../lib/time';
import { Amount, Count } from '../../../parts/Amount';
import { AsOf } from '../../../parts/AsOf';
import { EmptyState } from '../../../parts/EmptyState';
import { ErrorState } from '../../../parts/ErrorState';
import { ChoiceField, DayField, FilterField } from '../../../parts/FilterField';
import { DownloadIcon } from '../../../parts/icons';
import { Loading } from '../../../parts/Loading';
import { Page } from '../../../parts/Page';
import { Panel } from '../../../parts/Panel';
import { Rows } from '../../../parts/Rows';
import { roleIn, useSession } from '../../../session/session';

const StackedBars = lazy(() => import('../../../parts/StackedBars'));

type Query = { by: Schemas['UsageSeries']['by']; step: Schemas['UsageSeries']['step'] };

const BY = [
  ['service', 'service'],
  ['model', 'model'],
  ['user', 'user'],
  ['key', 'API key'],
  ['tag', 'tag'],
] as const;
const STEPS = [
  ['day', 'day'],
  ['week', 'week'],
  ['month', 'month'],
] as const;
const DAYS = 30;

/** Who and what the credits were used for, over time. */
export default function Usage() {
  const orgId = useThisOrg();
  const isAdmin = roleIn(useSession(), orgId) === 'admin';
  const [filters, change] = useFilters({
    from: utcDayBefore(DAYS - 1),
    to: utcDayBefore(0),
    by: 'service',
    step: 'day',
    user: '',
  });
  const { data, error, refetch } = api.useQuery(
    'get',
    '/api/v1/org-billing/credits/{org_id}/usage/series',
    {
      params: {
        path: { org_id: orgId },
        query: {
          start_date: filters.from,
          end_date: filters.to,
          by: filters.by as Query['by'],
          step: filters.step as Query['step'],
          ...(filters.user && { user_id: filters.user }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const refused: unknown = error;
  return (
    <Page
      title="Usage"
      about={data && <AsOf at={data.as_of} complete={data.complete} />}
      actions={
        <Button
          variant="outlined"
          startIcon={<DownloadIcon />}
          disabled={!data || data.series.length === 0}
          onClick={() => data && downloadUsage(data)}
        >
          CSV of what is shown
        </Button>
      }
    >
      <Stack
        direction="row"
        sx={{ gap: 1.5, flexWrap: 'wrap', '& > *': { flex: '1 1 140px', maxWidth: { sm: 220 } } }}
      >
        <DayField label="From" value={filters.from} onChange={(from) => change({ from })} />
        <DayField label="To" value={filters.to} onChange={(to) => change({ to })} />
        <ChoiceField label="By" value={filters.by} onChange={(by) => change({ by })} options={BY} />
        <ChoiceField
          label="Each bar a"
          value={filters.step}
          onChange={(step) => change({ step })}
          options={STEPS}
        />
        {isAdmin && (
          <FilterField label="User" value={filters.user} onChange={(user) => change({ user })} />
        )}
      </Stack>
      {refused ? (
        <ErrorState error={refused} again={() => void refetch()} />
      ) : !data ? (
        <Loading height={420} />
      ) : (
        <UsageShown usage={data} />
      )}
    </Page>
  );
}

function UsageShown({ usage }: { usage: Schemas['UsageSeries'] }) {
  const total = fromCredits(usage.total_credits_used);
  const openEnded = reachesToday(usage.end_date);
  const what = usage.by === 'key' ? 'API key' : usage.by;
  if (usage.series.length === 0) {
    return (
      <Panel>
        <EmptyState
          title="Nothing was used in this time"
          command={`curl ${location.origin}/v1/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'`}
        >
          Choose another range, or send the first request with an API key that may use models.
        </EmptyState>
      </Panel>
    );
  }
  return (
    <Box
      sx={{
        display: 'grid',
        gap: 2,
        gridTemplateColumns: { xs: 'minmax(0, 1fr)', lg: 'minmax(0, 3fr) minmax(0, 2fr)' },
        alignItems: 'start',
      }}
    >
      <Panel
        title={`Credits a ${usage.step}, by ${what}`}
        aside={
          <Typography variant="caption" sx={{ color: 'text.secondary' }}>
            {`days end at 00:00 UTC${openEnded ? `, this ${usage.step} is hatched` : ''}`}
          </Typography>
        }
      >
        <Suspense fallback={<Loading height={340} />}>
          <StackedBars
            periods={usage.periods}
            stacks={stacksOf(usage)}
            openEnded={openEnded}
            label={`Credits a ${usage.step} from ${formatDay(usage.start_date)} to ${formatDay(usage.end_date)}`}
            height={340}
          />
        </Suspense>
      </Panel>
      <Panel
        flush
        title="Ranked"
        aside={
          <Typography variant="body2">
            <Amount of={total} /> credits, <Count of={usage.total_requests} /> requests
          </Typography>
        }
      >
        <Rows
          label={`Usage by ${usage.by}`}
          rows={usage.series}
          keyOf={(one) => one.key ?? ''}
          columns={[
            {
              name: what.replace(/^./, (first) => first.toUpperCase()),
              cell: (one) => nameOf(one, usage.by),
            },
            {
              name: 'Credits',
              figure: true,
              cell: (one) => <Amount of={fromCredits(one.credits_used)} />,
            },
            {
              name: 'Requests',
              figure: true,
              wide: true,
              cell: (one) => <Count of={one.requests} />,
            },
            {
              name: 'Share',
              figure: true,
              cell: (one) => `${percentOf(fromCredits(one.credits_used), total).toFixed(1)}\u00a0%`,
            },
          ]}
        />
      </Panel>
    </Box>
  );
}

function downloadUsage(usage: Schemas['UsageSeries']): void {
  type One = Schemas['UsageSeriesOf'];
  const text = csvText<One>(
    [
      { title: usage.by, text: (one) => one.key ?? nameOf(one, usage.by) },
      ...(usage.by === 'key' ? [{ title: 'name', text: (one: One) => one.key_name ?? '' }] : []),
      { title: 'credits', text: (one) => plainText(fromCredits(one.credits_used)) },
      { title: 'requests', text: (one) => String(one.requests) },
      ...usage.periods.map((period, index) => ({
        title: period,
        text: (one: One) => plainText(fromCredits(one.credits[index] ?? 0)),
      })),
    ],
    usage.series,
  );
  downloadCsv(`usage-${usage.org_id}-${usage.start_date}-${usage.end_date}`, text);
}
