import { expect, test } from 'vitest';

import { wholeNumber } from './wholeNumber';

test('what is no count is none', () => {
  expect(wholeNumber('1 000')).toBe(1000);
  expect(wholeNumber('12_000')).toBe(12_000);
  for (const text of ['', undefined, '1.5', '-3', 'many', '12345678901']) {
    expect(wholeNumber(text)).toBe(0);
  }
});
