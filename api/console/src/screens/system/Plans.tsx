import { Rows } from '../../parts/Rows';
import { api } from '../../api/client';
import { formatDollars } from '../../lib/money';
import { Count } from '../../parts/Amount';
import { AsOf } from '../../parts/AsOf';
import { Go } from '../../parts/Go';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

/** What can be subscribed to, who does, and what it brings. */
export default function Plans() {
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/plans');
  const { data: system } = api.useSuspenseQuery('get', '/api/v1/org-billing/billing/system');
  return (
    <Page title="Plans" about={<AsOf at={system.as_of} complete={system.complete} />}>
      <Panel flush>
        <Rows
          label="Plans"
          rows={data.plans}
          keyOf={(one) => one.plan_code}
          columns={[
            { name: 'Plan', cell: (one) => one.plan_name },
            { name: 'Code', wide: true, cell: (one) => one.plan_code },
            { name: 'A month', figure: true, cell: (one) => formatDollars(one.monthly_price) },
            {
              name: 'Subscriptions',
              figure: true,
              cell: (one) => (
                <Go to="/system/organisations" search={{ plan: one.plan_code }}>
                  <Count of={system.subscription_distribution[one.plan_code]?.count ?? 0} />
                </Go>
              ),
            },
            {
              name: 'They bring a month',
              figure: true,
              cell: (one) =>
                formatDollars(system.subscription_distribution[one.plan_code]?.mrr ?? 0),
            },
          ]}
        />
      </Panel>
    </Page>
  );
}
