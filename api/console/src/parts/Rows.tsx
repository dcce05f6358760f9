/** A table of what a page of the API has: head that stays, right-aligned figures, rows by key. */
import Box from '@mui/material/Box';
import Table from '@mui/material/Table';
import TableBody from '@mui/material/TableBody';
import TableCell from '@mui/material/TableCell';
import TableContainer from '@mui/material/TableContainer';
import TableHead from '@mui/material/TableHead';
import TableRow from '@mui/material/TableRow';
import TableSortLabel from '@mui/material/TableSortLabel';
import { useTheme } from '@mui/material/styles';
import useMediaQuery from '@mui/material/useMediaQuery';
import type { ReactNode } from 'react';

import { idOf, useTableChoices } from './tableChoices';
import { TableMenu } from './TableMenu';

export interface Column<Row> {
  /** Columns without a name have the row's buttons, and are always shown. */
  name: string;
  /** What the API sorts by; a column without it is not sorted. */
  sort?: string;
  figure?: boolean;
  /** Left out on narrow screens, unless it was chosen. */
  wide?: boolean;
  cell: (row: Row) => ReactNode;
}

interface RowsProps<Row> {
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  keyOf: (row: Row) => string;
  sorted?: { by: string; order: 'asc' | 'desc'; change: (by: string) => void };
  label: string;
}

const PADDING = { dense: '2px', normal: '6px', roomy: '13px' };
const MENU_PX = 44;
/** Below it words would be broken into letters: then the table is scrolled sideways. */
const WORDS_PX = 84;

export function Rows<Row>({ columns, rows, keyOf, sorted, label }: RowsProps<Row>) {
  const isNarrow = useMediaQuery(useTheme().breakpoints.down('md'), { noSsr: true });
  const named = columns
    .filter(({ name }) => name !== '')
    .map(({ name }) => ({ id: idOf(name), name }));
  const choices = useTableChoices(
    label,
    named.map(({ id }) => id),
  );
  const isShown = ({ name, wide }: Column<Row>) =>
    name === '' || (choices.chosen ? choices.chosen.has(idOf(name)) : !(wide && isNarrow));
  const shown = columns.filter(isShown);
  return (
    <Box sx={{ position: 'relative' }}>
      <TableContainer tabIndex={0} role="region" aria-label={label}>
        <Table
          size="small"
          stickyHeader
          sx={{
            '& tbody td': { py: PADDING[choices.density] },
            '& tr > :last-child': { pr: `${String(MENU_PX)}px` },
          }}
        >
          <TableHead>
            <TableRow>
              {shown.map((column) => (
                <TableCell
                  key={column.name}
                  align={column.figure ? 'right' : 'left'}
                  sortDirection={sorted && column.sort === sorted.by ? sorted.order : false}
                >
                  {sorted && column.sort ? (
                    <TableSortLabel
                      active={column.sort === sorted.by}
                      direction={column.sort === sorted.by ? sorted.order : 'desc'}
                      onClick={() => sorted.change(column.sort ?? '')}
                    >
                      {column.name}
                    </TableSortLabel>
                  ) : (
                    column.name
                  )}
                </TableCell>
              ))}
            </TableRow>
          </TableHead>
          <TableBody>
            {rows.map((row) => (
              <TableRow key={keyOf(row)} hover>
                {shown.map((column) => (
                  <TableCell
                    key={column.name}
                    align={column.figure ? 'right' : 'left'}
                    sx={{
                      verticalAlign: 'top',
                      overflowWrap: 'anywhere',
                      minWidth: column.figure ? undefined : WORDS_PX,
                    }}
                  >
                    {column.cell(row)}
                  </TableCell>
                ))}
              </TableRow>
            ))}
          </TableBody>
        </Table>
      </TableContainer>
      <Box sx={{ position: 'absolute', top: 4, right: 6, zIndex: 3, bgcolor: 'background.paper' }}>
        <TableMenu
          label={label}
          choices={choices}
          columns={named}
          shown={shown.filter(({ name }) => name !== '').map(({ name }) => idOf(name))}
        />
      </Box>
    </Box>
  );
}
