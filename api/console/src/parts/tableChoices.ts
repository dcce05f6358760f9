/** Which columns of a table are shown, and how close its rows are: kept in the address. */
import { useSearch } from '@tanstack/react-router';

import { useAddressChange, type Filters } from '../app/addresses';

export const DENSITIES = ['dense', 'normal', 'roomy'] as const;
export type Density = (typeof DENSITIES)[number];

export interface TableChoices {
  density: Density;
  setDensity: (density: Density) => void;
  /** The columns that somebody has chosen; null: those that fit. */
  chosen: ReadonlySet<string> | null;
  /** Shows what is hidden, and the other way round. The last column stays. */
  toggle: (column: string, shown: readonly string[]) => void;
  reset: () => void;
}

/** `label` is what the table is called on its screen, `columns` the ids that may be chosen. */
export function useTableChoices(label: string, columns: readonly string[]): TableChoices {
  const search: Filters = useSearch({ strict: false });
  const change = useAddressChange();
  const name = `${idOf(label)}.columns`;
  const density = DENSITIES.find((one) => one === search.density) ?? 'normal';
  return {
    density,
    setDensity: (next) => change({ density: next === 'normal' ? '' : next }),
    chosen: chosenOf(search[name], columns),
    toggle: (column, shown) => {
      const next = toggled(column, shown, columns);
      if (next.length > 0) change({ [name]: next.join(',') });
    },
    reset: () => change({ [name]: '' }),
  };
}

/** What an address can say of a name: "Last used" is last-used. */
export function idOf(name: string): string {
  return name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '');
}

/** Null where nothing is said, or nothing that this table knows. */
export function chosenOf(
  said: string | undefined,
  columns: readonly string[],
): ReadonlySet<string> | null {
  const known = (said ?? '').split(',').filter((one) => columns.includes(one));
  return known.length > 0 ? new Set(known) : null;
}

/** The columns after a choice, in the order of the table. */
export function toggled(
  column: string,
  shown: readonly string[],
  columns: readonly string[],
): string[] {
  return columns.filter((one) => (one === column) !== shown.includes(one));
}
