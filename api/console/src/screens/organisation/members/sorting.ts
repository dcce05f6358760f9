/** In which order a list of allocations is: `remaining_credits`, or `-remaining_credits` downwards. */

/** What the API sorts by, of each column that can be sorted. */
const SORTS = {
  user: 'user',
  allocated: 'allocated_credits',
  used: 'used_credits',
  remaining: 'remaining_credits',
  ends: 'expires_at',
} as const;

export type SortedColumn = keyof typeof SORTS;
type Sort = (typeof SORTS)[SortedColumn];
type Order = 'asc' | 'desc';

export function canSort(column: string): column is SortedColumn {
  return column in SORTS;
}

/** As the address says it, for the API; nothing for what it does not sort by. */
export function askedSort(said: string): { sort?: Sort; order?: Order } {
  const sort = Object.values(SORTS).find((one) => one === said.replace(/^-/, ''));
  return sort ? { sort, order: said.startsWith('-') ? 'desc' : 'asc' } : {};
}

/** The column that the address says, for the grid. */
export function sortedColumn(said: string): { field: SortedColumn; sort: Order }[] {
  const { sort, order = 'asc' } = askedSort(said);
  const columns = Object.keys(SORTS) as SortedColumn[];
  return columns
    .filter((column) => SORTS[column] === sort)
    .map((field) => ({ field, sort: order }));
}

/** What the address is to say of a column; none takes it away. */
export function saidSort(column: string | undefined, order: Order | null | undefined): string {
  if (column === undefined || !order || !canSort(column)) return '';
  return (order === 'desc' ? '-' : '') + SORTS[column];
}
