import Box from '@mui/material/Box';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';

import { changesOf } from '../../lib/changes';
import { Pager } from '../../parts/Pager';
import { Rows } from '../../parts/Rows';
import { useCursor } from '../../parts/useCursor';
import { api } from '../../api/client';
import { useFilters } from '../../app/addresses';
import { EmptyState } from '../../parts/EmptyState';
import { ErrorState } from '../../parts/ErrorState';
import { DayField, FilterField } from '../../parts/FilterField';
import { Go } from '../../parts/Go';
import { Loading } from '../../parts/Loading';
import { Moment } from '../../parts/Moment';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

/** Who did what anywhere, with what was before and after. */
export default function Audit() {
  const [filters, change] = useFilters({ from: '', to: '', org: '' });
  const cursor = useCursor();
  const {
    data,
    error: refusal,
    refetch,
  } = api.useQuery(
    'get',
    '/api/v1/org-billing/system/audit',
    {
      params: {
        query: {
          limit: 50,
          ...(filters.from && { start_date: filters.from }),
          ...(filters.to && { end_date: filters.to }),
          ...(filters.org && { org_id: filters.org }),
          ...(cursor.at && { cursor: cursor.at }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const error: unknown = refusal;
  const look = (changed: Partial<typeof filters>) => {
    change(changed);
    cursor.begin();
  };
  return (
    <Page title="Audit log" about="Of all organisations. Nothing in it is ever changed.">
      <Panel flush>
        <Stack
          direction="row"
          sx={{
            gap: 1.5,
            p: 2,
            flexWrap: 'wrap',
            '& > *': { flex: '1 1 150px', maxWidth: { sm: 240 } },
          }}
        >
          <FilterField
            label="Organisation, by id"
            value={filters.org}
            onChange={(org) => look({ org })}
          />
          <DayField label="From" value={filters.from} onChange={(from) => look({ from })} />
          <DayField label="To" value={filters.to} onChange={(to) => look({ to })} />
        </Stack>
        {error !== null ? (
          <ErrorState error={error} again={() => void refetch()} />
        ) : !data ? (
          <Loading height={300} />
        ) : data.entries.length === 0 ? (
          <EmptyState
            title={
              filters.org
                ? 'Nothing was done to this organisation'
                : 'Nothing was done in this time'
            }
          />
        ) : (
          <>
            <Rows
              label="Audit log"
              rows={data.entries}
              keyOf={(one) => String(one.id)}
              columns={[
                { name: 'When', cell: (one) => <Moment at={one.at} /> },
                { name: 'Who', cell: (one) => one.actor },
                { name: 'What', cell: (one) => one.action },
                {
                  name: 'Where',
                  cell: (one) =>
                    one.org_id ? (
                      <Go to={`/o/${encodeURIComponent(one.org_id)}`}>{one.org_id}</Go>
                    ) : (
                      'the installation'
                    ),
                },
                {
                  name: 'Before and after',
                  wide: true,
                  cell: (one) => (
                    <Box component="ul" sx={{ m: 0, p: 0, listStyle: 'none' }}>
                      {one.target && <li>{one.target}</li>}
                      {changesOf(one.before, one.after).map((line) => (
                        <Typography key={line.name} component="li" variant="body2">
                          {line.name}: {line.before !== null && <del>{line.before}</del>}{' '}
                          {line.after !== null && <ins>{line.after}</ins>}
                        </Typography>
                      ))}
                    </Box>
                  ),
                },
              ]}
            />
            <Pager said={`Page ${cursor.page}`} back={cursor.back} next={cursor.to(data.next)} />
          </>
        )}
      </Panel>
    </Page>
  );
}
