import { expect, it } from 'vitest';

import { chosenOf, idOf, toggled } from './tableChoices';

const COLUMNS = ['when', 'who', 'last-used'];

it('names a column as an address can', () => {
  expect(idOf('Last used')).toBe('last-used');
  expect(idOf('Used, %')).toBe('used');
});

it('takes of an address only what the table has', () => {
  expect(chosenOf('who,nonsense', COLUMNS)).toEqual(new Set(['who']));
  expect(chosenOf('nonsense', COLUMNS)).toBeNull();
  expect(chosenOf(undefined, COLUMNS)).toBeNull();
});

it('shows what was hidden and hides what was shown, in the order of the table', () => {
  expect(toggled('when', ['last-used', 'who'], COLUMNS)).toEqual(COLUMNS);
  expect(toggled('who', COLUMNS, COLUMNS)).toEqual(['when', 'last-used']);
  expect(toggled('who', ['who'], COLUMNS)).toEqual([]);
});
