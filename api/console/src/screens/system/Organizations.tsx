import Box from '@mui/material/Box';
import Button from '@mui/material/Button';
import Chip from '@mui/material/Chip';
import MenuItem from '@mui/material/MenuItem';
import Stack from '@mui/material/Stack';
import TextField from '@mui/material/TextField';
import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { CreateOrganization } from './CreateOrganization';
import { Pager } from '../../parts/Pager';
import { Rows } from '../../parts/Rows';
import { Suspend } from './Suspend';
import { api, type Schemas } from '../../api/client';
import { useFilters } from '../../app/addresses';
import { fromCredits } from '../../lib/money';
import { Amount } from '../../parts/Amount';
import { EmptyState } from '../../parts/EmptyState';
import { ErrorState } from '../../parts/ErrorState';
import { SearchField } from '../../parts/FilterField';
import { Go } from '../../parts/Go';
import { Loading } from '../../parts/Loading';
import { Moment } from '../../parts/Moment';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

const PAGE = 50;
type Line = Schemas['OrganizationLine'];
type Sort = 'created_at' | 'name' | 'total_credits' | 'available_credits' | 'used_credits';
type State = 'active' | 'suspended' | 'deleted';

/** Every organisation: found, sorted and paged by the API. */
export default function Organizations() {
  const [filters, change] = useFilters({
    search: '',
    state: '',
    sort: 'created_at',
    order: 'desc',
    page: '1',
  });
  const [dialog, setDialog] = useState<'create' | Line | null>(null);
  const page = Math.max(1, Number(filters.page) || 1);
  const {
    data,
    error: refusal,
    refetch,
  } = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs',
    {
      params: {
        query: {
          limit: PAGE,
          offset: PAGE * (page - 1),
          sort: filters.sort as Sort,
          order: filters.order as 'asc' | 'desc',
          ...(filters.search && { search: filters.search }),
          ...(filters.state && { state: filters.state as State }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const error: unknown = refusal;
  const sortBy = (sort: string) =>
    change({
      sort,
      order: filters.sort === sort && filters.order === 'desc' ? 'asc' : 'desc',
      page: '1',
    });
  const done = () => {
    setDialog(null);
    void refetch();
  };
  return (
    <Page
      title="Organisations"
      actions={
        <Button variant="contained" onClick={() => setDialog('create')}>
          New organisation
        </Button>
      }
    >
      <Panel flush>
        <Stack direction="row" sx={{ gap: 1.5, p: 2, flexWrap: 'wrap' }}>
          <Box sx={{ flex: '1 1 220px' }}>
            <SearchField
              label="Search by id, name or address"
              value={filters.search}
              onChange={(search) => change({ search, page: '1' }, { step: false })}
            />
          </Box>
          <TextField
            select
            label="State"
            value={filters.state}
            onChange={(event) => change({ state: event.target.value, page: '1' })}
            sx={{ flex: '0 1 150px' }}
          >
            <MenuItem value="">All</MenuItem>
            <MenuItem value="active">Active</MenuItem>
            <MenuItem value="suspended">Suspended</MenuItem>
            <MenuItem value="deleted">Deleted</MenuItem>
          </TextField>
        </Stack>
        {error !== null ? (
          <ErrorState error={error} again={() => void refetch()} />
        ) : !data ? (
          <Loading height={300} />
        ) : data.organizations.length === 0 ? (
          <EmptyState
            title={filters.search ? 'No organisation is called so' : 'There is no organisation yet'}
            command="taximeter admin subscription create acme starter --name Acme --email bills@acme.example --admin ann"
          >
            Make one here, or by the command line.
          </EmptyState>
        ) : (
          <Rows
            label="Organisations"
            rows={data.organizations}
            keyOf={(one) => one.org_id}
            sorted={{ by: filters.sort, order: filters.order as 'asc' | 'desc', change: sortBy }}
            columns={[
              {
                name: 'Organisation',
                sort: 'name',
                cell: (one) => (
                  <>
                    <Go to={`/o/${encodeURIComponent(one.org_id)}`}>{one.org_name}</Go>{' '}
                    {one.state !== 'active' && (
                      <Chip size="small" variant="outlined" color="warning" label={one.state} />
                    )}
                    <Typography variant="caption" component="div" sx={{ color: 'text.secondary' }}>
                      {one.org_id}
                    </Typography>
                  </>
                ),
              },
              { name: 'Plan', wide: true, cell: (one) => one.plan_code ?? '–' },
              {
                name: 'Bought',
                sort: 'total_credits',
                figure: true,
                wide: true,
                cell: (one) => <Amount of={fromCredits(one.credit_pool.total_credits)} />,
              },
              {
                name: 'Used',
                sort: 'used_credits',
                figure: true,
                cell: (one) => <Amount of={fromCredits(one.credit_pool.used_credits)} />,
              },
              {
                name: 'Free',
                sort: 'available_credits',
                figure: true,
                wide: true,
                cell: (one) => <Amount of={fromCredits(one.credit_pool.available_credits)} />,
              },
              {
                name: 'Since',
                sort: 'created_at',
                wide: true,
                cell: (one) => <Moment at={one.created_at} />,
              },
              {
                name: 'Change',
                cell: (one) =>
                  one.state === 'deleted' ? null : (
                    <Button
                      size="small"
                      onClick={() => setDialog(one)}
                      aria-label={`${one.state === 'suspended' ? 'Resume' : 'Suspend'} ${one.org_name}`}
                    >
                      {one.state === 'suspended' ? 'Resume' : 'Suspend'}
                    </Button>
                  ),
              },
            ]}
          />
        )}
        {data && (
          <Pager
            said={saidOf(page, data.organizations.length, data.total)}
            back={page > 1 ? () => change({ page: String(page - 1) }) : null}
            next={page * PAGE < data.total ? () => change({ page: String(page + 1) }) : null}
          />
        )}
      </Panel>
      {dialog === 'create' && <CreateOrganization close={() => setDialog(null)} />}
      {dialog !== null && dialog !== 'create' && (
        <Suspend organization={dialog} close={() => setDialog(null)} done={done} />
      )}
    </Page>
  );
}

function saidOf(page: number, shown: number, total: number): string {
  if (shown === 0) return `0 of ${total.toLocaleString()}`;
  const first = PAGE * (page - 1) + 1;
  return `${first.toLocaleString()}–${(first + shown - 1).toLocaleString()} of ${total.toLocaleString()}`;
}
