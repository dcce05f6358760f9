import { expect, it } from 'vitest';

import { burnOf, daysLeft, leftOf, partsOf } from './pool';
import type { Milli } from '../../../lib/money';
import type { LivePool } from '../../../live/feed';

const pool: LivePool = {
  total: 100_000_000 as Milli,
  allocated: 60_000_000 as Milli,
  available: 35_000_000 as Milli,
  used: 41_230_118 as Milli,
  closed: 5_000_000 as Milli,
  held: 12_400 as Milli,
};

it('is made of parts that add up to the whole', () => {
  const sum = partsOf(pool).reduce((total, part) => total + part.amount, 0);
  expect(sum).toBe(pool.total);
  expect(leftOf(pool)).toBe(58_769_882);
});

it('lasts as long as the last whole days say, without today', () => {
  const days = [9, 1, 1, 1, 1, 1, 1, 1, 0].map((credits) => (credits * 1000) as Milli);
  const burn = burnOf(days);
  expect(burn).toEqual({ perDay: 1000, days: 7 });
  expect(daysLeft(23_500 as Milli, burn)).toBe(23);
  expect(daysLeft(-1 as Milli, burn)).toBe(0);
});

it('says nothing of how long it lasts while nothing is used', () => {
  expect(daysLeft(1000 as Milli, burnOf([]))).toBeNull();
  expect(daysLeft(1000 as Milli, burnOf([5 as Milli]))).toBeNull();
});
