import { expect, it } from 'vitest';

import { parseSearch, stringifySearch } from './addresses';

it('keeps every filter as the text that it is', () => {
  const filters = { user: 'ann@example.com', request: '12', flag: 'true', from: '2026-11-01' };
  expect(parseSearch(stringifySearch(filters))).toEqual(filters);
});

it('leaves out what says nothing', () => {
  expect(stringifySearch({ user: '', by: undefined })).toBe('');
});
