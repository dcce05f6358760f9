/** A table of what a page of the API has: head that stays, right-aligned figures, rows by key. */
import Table from '@mui/material/Table';
import TableBody from '@mui/material/TableBody';
import TableCell from '@mui/material/TableCell';
import TableContainer from '@mui/material/TableContainer';
import TableHead from '@mui/material/TableHead';
import TableRow from '@mui/material/TableRow';
import TableSortLabel from '@mui/material/TableSortLabel';
import type { ReactNode } from 'react';

export interface Column<Row> {
  name: string;
  /** What the API sorts by; a column without it is not sorted. */
  sort?: string;
  figure?: boolean;
  /** Left out on narrow screens. */
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

export function Rows<Row>({ columns, rows, keyOf, sorted, label }: RowsProps<Row>) {
  return (
    <TableContainer tabIndex={0} role="region" aria-label={label}>
      <Table size="small" stickyHeader>
        <TableHead>
          <TableRow>
            {columns.map((column) => (
              <TableCell
                key={column.name}
                align={column.figure ? 'right' : 'left'}
                sx={shown(column)}
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
              {columns.map((column) => (
                <TableCell
                  key={column.name}
                  align={column.figure ? 'right' : 'left'}
                  sx={[{ verticalAlign: 'top', overflowWrap: 'anywhere' }, shown(column)]}
                >
                  {column.cell(row)}
                </TableCell>
              ))}
            </TableRow>
          ))}
        </TableBody>
      </Table>
    </TableContainer>
  );
}

function shown<Row>(column: Column<Row>) {
  return { display: column.wide ? { xs: 'none', md: 'table-cell' } : 'table-cell' };
}
