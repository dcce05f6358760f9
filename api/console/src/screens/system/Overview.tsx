import Alert from '@mui/material/Alert';
import Box from '@mui/material/Box';
import Stack from '@mui/material/Stack';

import { Figures } from './Figures';
import { Health } from './Health';
import { Rows } from '../../parts/Rows';
import { Trend } from './Trend';
import { useSystemLive } from './useSystemLive';
import { api } from '../../api/client';
import { formatDollars, fromCredits } from '../../lib/money';
import { Amount, Count } from '../../parts/Amount';
import { AsOf } from '../../parts/AsOf';
import { EmptyState } from '../../parts/EmptyState';
import { Go } from '../../parts/Go';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

/** Is everything right, and who needs me. */
export default function Overview() {
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/billing/system');
  const live = useSystemLive();
  const { metrics } = data;
  return (
    <Page title="System" about={<AsOf at={data.as_of} complete={data.complete} />}>
      {live.said?.alarms.map((alarm) => (
        <Alert key={alarm} severity="warning" variant="outlined">
          {alarm}
        </Alert>
      ))}
      <Panel title="Organisations and credits">
        <Figures
          of={[
            { name: 'Organisations', value: <Count of={metrics.total_organizations} /> },
            { name: 'Subscriptions', value: <Count of={metrics.active_subscriptions} /> },
            { name: 'A month (MRR)', value: formatDollars(metrics.total_mrr) },
            { name: 'A year (ARR)', value: formatDollars(metrics.total_arr) },
            { name: 'Credits bought', value: <Amount of={fromCredits(metrics.total_credits)} /> },
            {
              name: 'Credits allocated',
              value: <Amount of={fromCredits(metrics.total_credits_allocated)} />,
            },
            {
              name: 'Credits used',
              value: <Amount of={fromCredits(metrics.total_credits_used)} />,
            },
          ]}
        />
      </Panel>
      <Box sx={{ display: 'grid', gap: 2, gridTemplateColumns: { xs: '1fr', md: '1fr 1fr' } }}>
        <Panel title="Credits a day, the last 7 days (UTC)">
          <Trend
            days={data.usage_trends.last_7_days.map((day) => ({
              day: day.date,
              amount: fromCredits(day.total_credits),
              requests: day.total_requests,
            }))}
          />
        </Panel>
        <Panel title="Settlement and shards" aside={<AsOf live={live.isLive} at={live.asOf} />}>
          <Health live={live} />
        </Panel>
      </Box>
      <Panel title="Who used most in 30 days" flush>
        {data.top_organizations.length === 0 ? (
          <EmptyState title="Nobody has used anything yet">
            Organisations that use credits are listed here, the largest first.
          </EmptyState>
        ) : (
          <Rows
            label="Who used most in 30 days"
            rows={data.top_organizations}
            keyOf={(one) => one.org_id}
            columns={[
              {
                name: 'Organisation',
                cell: (one) => (
                  <Stack>
                    <Go to={`/o/${encodeURIComponent(one.org_id)}`}>
                      {one.org_name ?? one.org_id}
                    </Go>
                  </Stack>
                ),
              },
              { name: 'Plan', wide: true, cell: (one) => one.plan_code ?? '–' },
              {
                name: 'A month',
                figure: true,
                wide: true,
                cell: (one) => formatDollars(one.mrr),
              },
              {
                name: 'Requests',
                figure: true,
                cell: (one) => <Count of={one.requests_30d} />,
              },
              {
                name: 'Credits',
                figure: true,
                cell: (one) => <Amount of={fromCredits(one.credits_used_30d)} />,
              },
            ]}
          />
        )}
      </Panel>
    </Page>
  );
}
