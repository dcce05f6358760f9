import Chip from '@mui/material/Chip';

import { Rows } from '../../parts/Rows';
import { api } from '../../api/client';
import { EmptyState } from '../../parts/EmptyState';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

const AGAIN_MS = 5_000;

/** Where requests go, and how the providers are by their last answers. */
export default function Upstreams() {
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/system/upstreams', undefined, {
    refetchInterval: AGAIN_MS,
  });
  return (
    <Page title="Upstreams" about="As the process that answers you sees them.">
      <Panel title="Providers" flush>
        {data.upstreams.length === 0 ? (
          <EmptyState title="No upstream is configured">
            Set TAXIMETER_UPSTREAM_BASE_URL, or TAXIMETER_UPSTREAMS_FILE for several.
          </EmptyState>
        ) : (
          <Rows
            label="Providers"
            rows={data.upstreams}
            keyOf={(one) => one.name}
            columns={[
              { name: 'Name', cell: (one) => one.name },
              {
                name: 'Health',
                cell: (one) => (
                  <Chip
                    size="small"
                    variant="outlined"
                    color={one.health === 'ok' ? 'success' : 'error'}
                    label={one.health.replaceAll('_', ' ')}
                  />
                ),
              },
              { name: 'Host', cell: (one) => one.host },
              {
                name: 'Priced as',
                wide: true,
                cell: (one) => [one.provider, one.region].filter(Boolean).join(' in ') || '–',
              },
              {
                name: 'Connections',
                wide: true,
                cell: (one) =>
                  Object.entries(one.connections)
                    .map(([name, count]) => `${count} ${name}`)
                    .join(', '),
              },
            ]}
          />
        )}
      </Panel>
      <Panel title="Routes, the first that has a model decides" flush>
        <Rows
          label="Routes"
          rows={data.routes.map((route, place) => ({ ...route, place }))}
          keyOf={(one) => String(one.place)}
          columns={[
            { name: 'Models', cell: (one) => one.models.join(', ') },
            {
              name: 'Asked in this order',
              cell: (one) =>
                one.targets
                  .map((target) => [target.upstream, target.model].filter(Boolean).join(': '))
                  .join(', then '),
            },
            { name: 'Sold as', wide: true, cell: (one) => one.power_level ?? '–' },
          ]}
        />
      </Panel>
    </Page>
  );
}
