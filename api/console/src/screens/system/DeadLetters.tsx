import Button from '@mui/material/Button';
import Chip from '@mui/material/Chip';
import MenuItem from '@mui/material/MenuItem';
import TextField from '@mui/material/TextField';
import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { AnswerLetter } from './AnswerLetter';
import { Pager } from '../../parts/Pager';
import { Rows } from '../../parts/Rows';
import { useCursor } from '../../parts/useCursor';
import { api, queryClient, type Schemas } from '../../api/client';
import { useFilters } from '../../app/addresses';
import { fromCredits } from '../../lib/money';
import { Amount } from '../../parts/Amount';
import { EmptyState } from '../../parts/EmptyState';
import { ErrorState } from '../../parts/ErrorState';
import { Loading } from '../../parts/Loading';
import { Moment } from '../../parts/Moment';
import { Panel } from '../../parts/Panel';

type Letter = Schemas['DeadLetter'];

/** Events that could not be booked: why, and what somebody does about each. */
export function DeadLetters({ counts }: { counts: Schemas['LetterCounts'] }) {
  const [filters, change] = useFilters({ letters: 'open' });
  const [chosen, setChosen] = useState<Letter | null>(null);
  const cursor = useCursor();
  const state = filters.letters === 'all' ? undefined : (filters.letters as Letter['state']);
  const {
    data,
    error: refusal,
    refetch,
  } = api.useQuery(
    'get',
    '/api/v1/org-billing/system/dead-letters',
    {
      params: {
        query: { limit: 20, ...(state && { state }), ...(cursor.at && { cursor: cursor.at }) },
      },
    },
    { placeholderData: (before) => before },
  );
  const error: unknown = refusal;
  const done = () => {
    setChosen(null);
    void queryClient.invalidateQueries({ queryKey: ['get', '/api/v1/org-billing/system/books'] });
    void refetch();
  };
  return (
    <Panel
      title={`Events that were set aside: ${counts.open.toLocaleString()} open`}
      flush
      aside={
        <TextField
          select
          label="Show"
          value={filters.letters}
          onChange={(event) => {
            change({ letters: event.target.value });
            cursor.begin();
          }}
          sx={{ width: 170 }}
        >
          <MenuItem value="open">Open ({counts.open})</MenuItem>
          <MenuItem value="acknowledged">Acknowledged ({counts.acknowledged})</MenuItem>
          <MenuItem value="charged">Charged ({counts.charged})</MenuItem>
          <MenuItem value="all">All</MenuItem>
        </TextField>
      }
    >
      {error !== null ? (
        <ErrorState error={error} again={() => void refetch()} />
      ) : !data ? (
        <Loading />
      ) : data.dead_letters.length === 0 ? (
        <EmptyState title="Nothing waits for you">
          An event that cannot be booked is set aside with its reason, and its credits are given
          back at once.
        </EmptyState>
      ) : (
        <>
          <Rows
            label="Events that were set aside"
            rows={data.dead_letters}
            keyOf={(one) => String(one.id)}
            columns={[
              { name: 'When', wide: true, cell: (one) => <Moment at={one.at} /> },
              {
                name: 'Why',
                cell: (one) => (
                  <>
                    {one.reason.replaceAll('_', ' ')}
                    <Typography variant="caption" component="div" sx={{ color: 'text.secondary' }}>
                      {one.detail}
                    </Typography>
                  </>
                ),
              },
              {
                name: 'Whose',
                cell: (one) => `${one.org_id ?? '?'} / ${one.user_id ?? '?'}`,
              },
              { name: 'Request', wide: true, cell: (one) => one.request_id ?? '–' },
              {
                name: 'Credits',
                figure: true,
                cell: (one) =>
                  one.credits === null ? '–' : <Amount of={fromCredits(one.credits)} />,
              },
              {
                name: 'State',
                cell: (one) =>
                  one.state === 'open' ? (
                    <Button
                      size="small"
                      onClick={() => setChosen(one)}
                      aria-label={`Answer event ${one.id}`}
                    >
                      Answer
                    </Button>
                  ) : (
                    <>
                      <Chip size="small" variant="outlined" label={one.state} />
                      <Typography variant="caption" component="div">
                        {one.note}
                      </Typography>
                    </>
                  ),
              },
            ]}
          />
          <Pager said={`Page ${cursor.page}`} back={cursor.back} next={cursor.to(data.next)} />
        </>
      )}
      {chosen && <AnswerLetter letter={chosen} close={() => setChosen(null)} done={done} />}
    </Panel>
  );
}
