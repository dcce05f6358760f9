import Box from '@mui/material/Box';
import Stack from '@mui/material/Stack';
import type { ReactNode } from 'react';

import { ErrorState } from './ErrorState';
import { Loading } from './Loading';
import { Pager } from './Pager';
import { Panel } from './Panel';
import { Rows, type Column } from './Rows';
import type { Cursor } from './useCursor';

interface ListPanelProps<Row> {
  label: string;
  title?: string;
  aside?: ReactNode;
  /** Fields that narrow the list. */
  filters?: ReactNode;
  query: { error: unknown; refetch: () => unknown };
  /** Absent while they are on their way. */
  rows: readonly Row[] | undefined;
  columns: readonly Column<Row>[];
  keyOf: (row: Row) => string;
  empty: ReactNode;
  cursor?: Cursor;
  next?: string | null | undefined;
}

/** A list of the API in its states: on its way, refused, empty, or a page of rows. */
export function ListPanel<Row>(props: ListPanelProps<Row>) {
  const { label, title, aside, filters, query, rows, columns, keyOf, empty, cursor, next } = props;
  const hasPages = cursor && (cursor.back !== null || next);
  return (
    <Panel flush {...(title && { title, aside })}>
      {filters && (
        <Stack
          direction="row"
          sx={{
            gap: 1.5,
            p: 2,
            flexWrap: 'wrap',
            '& > *': { flex: '1 1 150px', maxWidth: { sm: 240 } },
          }}
        >
          {filters}
        </Stack>
      )}
      {query.error ? (
        <Box sx={{ p: 2 }}>
          <ErrorState error={query.error} again={() => void query.refetch()} />
        </Box>
      ) : !rows ? (
        <Box sx={{ p: 2 }}>
          <Loading height={240} />
        </Box>
      ) : rows.length === 0 && (next || !cursor?.back) ? (
        empty
      ) : (
        <Rows label={label} rows={rows} columns={columns} keyOf={keyOf} />
      )}
      {hasPages && rows && (
        <Pager said={`Page ${cursor.page}`} back={cursor.back} next={cursor.to(next)} />
      )}
    </Panel>
  );
}

/** What follows a page of a list that is counted by offsets. */
export function nextOffset(
  page: { offset: number; limit: number; total: number | null },
  shown: number,
) {
  const next = page.offset + shown;
  const more = page.total === null ? shown === page.limit : next < page.total;
  return more ? String(next) : null;
}

export const offsetOf = (cursor: Cursor) => Number(cursor.at ?? '0');
