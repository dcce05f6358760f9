import Box from '@mui/material/Box';

import { api } from '../../../api/client';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { changesOf } from '../../../lib/changes';
import { EmptyState } from '../../../parts/EmptyState';
import { FilterField } from '../../../parts/FilterField';
import { ListPanel, nextOffset, offsetOf } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { useCursor } from '../../../parts/useCursor';

const PAGE = 50;

/** Who did what in the organisation, with what was before and after. */
export default function Audit() {
  const orgId = useThisOrg();
  const [filters, change] = useFilters({ actor: '', action: '' });
  const cursor = useCursor();
  const query = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs/{org_id}/audit',
    {
      params: {
        path: { org_id: orgId },
        query: {
          limit: PAGE,
          offset: offsetOf(cursor),
          ...(filters.actor && { actor: filters.actor }),
          ...(filters.action && { action: filters.action }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const { data } = query;
  const look = (changed: Partial<typeof filters>) => {
    change(changed);
    cursor.begin();
  };
  return (
    <Page title="Audit" about="Nothing in it is ever changed.">
      <ListPanel
        label="Audit log"
        query={query}
        rows={data?.entries}
        keyOf={(one) => String(one.id)}
        cursor={cursor}
        next={data && nextOffset(data, data.entries.length)}
        filters={
          <>
            <FilterField label="Who" value={filters.actor} onChange={(actor) => look({ actor })} />
            <FilterField
              label="What"
              value={filters.action}
              onChange={(action) => look({ action })}
            />
          </>
        }
        empty={<EmptyState title="Nothing of this kind was done" />}
        columns={[
          { name: 'When', cell: (one) => <Moment at={one.at} /> },
          { name: 'Who', cell: (one) => one.actor },
          { name: 'What', cell: (one) => one.action },
          { name: 'Of', wide: true, cell: (one) => one.target },
          {
            name: 'Before and after',
            wide: true,
            cell: (one) => (
              <Box component="ul" sx={{ m: 0, p: 0, listStyle: 'none' }}>
                {changesOf(one.before, one.after).map((line) => (
                  <li key={line.name}>
                    {line.name}: {line.before !== null && <del>{line.before}</del>}{' '}
                    {line.after !== null && <ins>{line.after}</ins>}
                  </li>
                ))}
              </Box>
            ),
          },
        ]}
      />
    </Page>
  );
}
