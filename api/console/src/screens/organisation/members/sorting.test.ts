import { expect, it } from 'vitest';

import { askedSort, saidSort, sortedColumn } from './sorting';

it('says the same in the address, to the API and in the grid', () => {
  const said = saidSort('remaining', 'desc');
  expect(said).toBe('-remaining_credits');
  expect(askedSort(said)).toEqual({ sort: 'remaining_credits', order: 'desc' });
  expect(sortedColumn(said)).toEqual([{ field: 'remaining', sort: 'desc' }]);
});

it('asks for nothing that the API does not sort by', () => {
  expect(askedSort('colour')).toEqual({});
  expect(sortedColumn('')).toEqual([]);
  expect(saidSort('held', 'asc')).toBe('');
  expect(saidSort('user', null)).toBe('');
});
