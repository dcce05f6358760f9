import Box from '@mui/material/Box';
import IconButton from '@mui/material/IconButton';
import useMediaQuery from '@mui/material/useMediaQuery';
import { DataGrid, type GridColDef } from '@mui/x-data-grid';
import { useMemo } from 'react';

import { canSort, saidSort, sortedColumn } from './sorting';
import type { Schemas } from '../../../api/client';
import { cspNonce } from '../../../app/csp';
import { formatAmount, fromCredits, minus, percentOf, type Milli } from '../../../lib/money';
import type { FeedState } from '../../../live/feed';
import { MinusIcon, PlusIcon, TransferIcon } from '../../../parts/icons';
import { Moment } from '../../../parts/Moment';
import { Sparkline } from '../../../parts/Sparkline';
import { useTableChoices } from '../../../parts/tableChoices';
import { TableMenu } from '../../../parts/TableMenu';

type MoveKind = 'transfer' | 'allocate' | 'deallocate';

interface AllocationGridProps {
  allocations: readonly Schemas['AllocationView'][];
  feed: FeedState;
  /** As the address says it (sorting.ts): the API sorts, and not this page of it. */
  sort: string;
  onSort: (sort: string) => void;
  onMove: (kind: MoveKind, userId: string) => void;
}

interface Row {
  id: string;
  user: string;
  userId: string;
  allocated: Milli;
  used: Milli;
  held: Milli;
  remaining: Milli;
  percent: number;
  ends: string | null;
  days: readonly Milli[];
  lastRequest: string | null | undefined;
}

const MOVES = [
  { kind: 'transfer', label: 'Transfer from', Icon: TransferIcon },
  { kind: 'allocate', label: 'Allocate to', Icon: PlusIcon },
  { kind: 'deallocate', label: 'Return credits of', Icon: MinusIcon },
] as const;

const CHOSEN = [
  { id: 'user', name: 'Member' },
  { id: 'allocated', name: 'Allocated' },
  { id: 'used', name: 'Used' },
  { id: 'held', name: 'Held' },
  { id: 'remaining', name: 'Remaining' },
  { id: 'percent', name: 'Used, %' },
  { id: 'ends', name: 'Ends' },
  { id: 'days', name: '14 days' },
  { id: 'lastRequest', name: 'Last request' },
] as const;
const IDS = CHOSEN.map(({ id }) => id);
const ON_PHONES: ReadonlySet<string> = new Set(['user', 'remaining']);
const ON_NARROW: ReadonlySet<string> = new Set([...ON_PHONES, 'allocated', 'held']);
const ON_WIDE_ALONE: ReadonlySet<string> = new Set(['percent', 'days']);
const ROW_PX = { dense: 30, normal: 36, roomy: 52 };

/** A page of allocations, drawn only where it is in view. */
export default function AllocationGrid(props: AllocationGridProps) {
  const { allocations, feed, sort, onSort, onMove } = props;
  const isNarrow = useMediaQuery('(max-width: 1000px)');
  const isPhone = useMediaQuery('(max-width: 600px)');
  const isWide = useMediaQuery('(min-width: 1450px)');
  const rows = useMemo(() => allocations.map((one) => rowOf(one, feed)), [allocations, feed]);
  const columns = useMemo(() => columnsFor(isPhone, onMove), [isPhone, onMove]);
  const choices = useTableChoices('Allocations', IDS);
  const shown = IDS.filter((id) =>
    choices.chosen ? choices.chosen.has(id) : fits(id, isPhone, isNarrow, isWide),
  );
  return (
    <Box sx={{ position: 'relative' }}>
      <DataGrid
        nonce={cspNonce}
        rows={rows}
        columns={columns}
        rowHeight={ROW_PX[choices.density]}
        columnHeaderHeight={40}
        hideFooter
        disableRowSelectionOnClick
        disableColumnFilter
        disableColumnMenu
        columnVisibilityModel={Object.fromEntries(IDS.map((id) => [id, shown.includes(id)]))}
        sortingMode="server"
        sortModel={sortedColumn(sort)}
        onSortModelChange={([by]) => onSort(saidSort(by?.field, by?.sort))}
        sx={{
          border: 0,
          maxHeight: 'max(420px, calc(100dvh - 320px))',
          fontVariantNumeric: 'tabular-nums',
        }}
      />
      <Box sx={{ position: 'absolute', top: 5, right: 18, zIndex: 5, bgcolor: 'background.paper' }}>
        <TableMenu label="Allocations" choices={choices} columns={CHOSEN} shown={shown} />
      </Box>
    </Box>
  );
}

function fits(id: string, isPhone: boolean, isNarrow: boolean, isWide: boolean): boolean {
  if (isPhone) return ON_PHONES.has(id);
  if (isNarrow) return ON_NARROW.has(id);
  return isWide || !ON_WIDE_ALONE.has(id);
}

function rowOf(one: Schemas['AllocationView'], feed: FeedState): Row {
  const live = feed.status === 'live' ? feed.members.get(one.user_id) : undefined;
  const allocated = fromCredits(one.allocated_credits);
  const remaining = live?.remaining ?? fromCredits(one.remaining_credits);
  const used = minus(allocated, remaining);
  return {
    id: one.id,
    user: one.user_email ?? one.user_id,
    userId: one.user_id,
    allocated,
    used: one.is_active ? used : fromCredits(one.used_credits),
    held: live?.held ?? fromCredits(one.held_credits),
    remaining,
    percent: percentOf(used, allocated),
    ends: one.expires_at,
    days: (one.credits_by_day ?? []).map(fromCredits),
    lastRequest: one.last_request_at,
  };
}

function amountColumn(field: keyof Row, headerName: string, width: number): GridColDef<Row> {
  return {
    field,
    headerName,
    type: 'number',
    width,
    flex: 0.6,
    minWidth: 96,
    valueFormatter: (value: Milli) => formatAmount(value),
  };
}

function columnsFor(isPhone: boolean, onMove: AllocationGridProps['onMove']): GridColDef<Row>[] {
  const columns: GridColDef<Row>[] = [
    { field: 'user', headerName: 'Member', flex: 1.4, minWidth: isPhone ? 110 : 160 },
    amountColumn('allocated', 'Allocated', 130),
    amountColumn('used', 'Used', 130),
    amountColumn('held', 'Held', 100),
    amountColumn('remaining', 'Remaining', 130),
    {
      field: 'percent',
      headerName: 'Used, %',
      type: 'number',
      width: 90,
      valueFormatter: (value: number) => value.toFixed(1),
    },
    {
      field: 'ends',
      headerName: 'Ends',
      width: 160,
      renderCell: ({ row }) => <Moment at={row.ends} />,
    },
    {
      field: 'days',
      headerName: '14 days',
      width: 96,
      renderCell: ({ row }) => <Sparkline amounts={row.days} />,
    },
    {
      field: 'lastRequest',
      headerName: 'Last request',
      width: 120,
      renderCell: ({ row }) => <Moment at={row.lastRequest} as="ago" />,
    },
    {
      field: 'moves',
      headerName: '',
      width: isPhone ? 112 : 124,
      align: 'right',
      renderCell: ({ row }) =>
        MOVES.map(({ kind, label, Icon }) => (
          // A tooltip of ours for each would be most of the work of a row that scrolls into view.
          <IconButton
            key={kind}
            size="small"
            title={`${label} ${row.user}`}
            aria-label={`${label} ${row.user}`}
            onClick={() => onMove(kind, row.userId)}
          >
            <Icon />
          </IconButton>
        )),
    },
  ];
  return columns.map((column) => ({ ...column, sortable: canSort(column.field) }));
}
