import Box from '@mui/material/Box';
import MenuItem from '@mui/material/MenuItem';
import Stack from '@mui/material/Stack';
import TextField from '@mui/material/TextField';
import Typography from '@mui/material/Typography';

import { Calculator } from './Calculator';
import { Pager } from '../../parts/Pager';
import { Rows } from '../../parts/Rows';
import { useCursor } from '../../parts/useCursor';
import { api } from '../../api/client';
import { useFilters } from '../../app/addresses';
import { EmptyState } from '../../parts/EmptyState';
import { ErrorState } from '../../parts/ErrorState';
import { SearchField } from '../../parts/FilterField';
import { Loading } from '../../parts/Loading';
import { Page } from '../../parts/Page';
import { Panel } from '../../parts/Panel';

const PLANS = ['trial', 'starter', 'professional', 'enterprise'];

/** Which price a model has and why; what a usage would cost. */
export default function Prices() {
  const [filters, change] = useFilters({ search: '', plan: '' });
  const cursor = useCursor();
  const { search } = filters;
  const {
    data,
    error: refusal,
    refetch,
  } = api.useQuery(
    'get',
    '/api/v1/org-billing/prices',
    {
      params: {
        query: {
          limit: 25,
          ...(search && { search }),
          ...(filters.plan && { plan: filters.plan }),
          ...(cursor.at && { cursor: cursor.at }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const error: unknown = refusal;
  const look = (changed: Partial<typeof filters>, step = true) => {
    change(changed, { step });
    cursor.begin();
  };
  return (
    <Page
      title="Prices"
      about={
        data && (
          <>
            In force: {data.list_version}
            {data.list_dated && `, of ${data.list_dated}`}
            {data.own_version && `; before it ${data.own_version}`}. A dollar is{' '}
            {data.credits_per_dollar} credits.
          </>
        )
      }
    >
      <Calculator />
      <Panel title="Models" flush>
        <Stack direction="row" sx={{ gap: 1.5, px: 2, pb: 2, flexWrap: 'wrap' }}>
          <Box sx={{ flex: '1 1 220px' }}>
            <SearchField
              label="Search by a part of the name"
              value={search}
              onChange={(typed) => look({ search: typed }, false)}
            />
          </Box>
          <TextField
            select
            label="At the markup of a plan"
            value={filters.plan}
            onChange={(event) => look({ plan: event.target.value })}
            sx={{ flex: '0 1 200px' }}
          >
            <MenuItem value="">None in particular</MenuItem>
            {PLANS.map((plan) => (
              <MenuItem key={plan} value={plan}>
                {plan}
              </MenuItem>
            ))}
          </TextField>
        </Stack>
        {error !== null ? (
          <ErrorState error={error} again={() => void refetch()} />
        ) : !data ? (
          <Loading height={300} />
        ) : data.prices.length === 0 ? (
          <EmptyState title="No model is called so" command="taximeter prices show MODEL">
            A model that no list has can be priced in a file of your own.
          </EmptyState>
        ) : (
          <>
            <Rows
              label="Models and their prices"
              rows={data.prices}
              keyOf={(one) => one.model}
              columns={[
                {
                  name: 'Model',
                  cell: (one) => (
                    <>
                      {one.model}
                      <Typography
                        variant="caption"
                        component="div"
                        sx={{ color: 'text.secondary' }}
                      >
                        {one.changes_by_time ? 'other prices at other times' : one.identity}
                      </Typography>
                    </>
                  ),
                },
                {
                  name: 'Credits',
                  cell: (one) =>
                    one.rates
                      .filter((rate) => !rate.service_tier)
                      .map((rate) => (
                        <div key={`${rate.kind}${rate.above_tokens ?? ''}`}>
                          {rate.credits} for {rate.unit}
                          {rate.above_tokens === null
                            ? ''
                            : ` of prompts above ${rate.above_tokens.toLocaleString()}`}
                        </div>
                      )),
                },
                {
                  name: 'Why',
                  wide: true,
                  cell: (one) => (
                    <>
                      {one.source}
                      <Typography
                        variant="caption"
                        component="div"
                        sx={{ color: 'text.secondary' }}
                      >
                        {one.version}
                        {one.dated && `, of ${one.dated}`}
                      </Typography>
                    </>
                  ),
                },
              ]}
            />
            <Pager
              said={`Page ${cursor.page} of ${data.total.toLocaleString()} models`}
              back={cursor.back}
              next={cursor.to(data.next)}
            />
          </>
        )}
      </Panel>
    </Page>
  );
}
