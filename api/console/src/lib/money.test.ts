import { describe, expect, it } from 'vitest';

import {
  AMOUNT_MAX,
  formatAmount,
  fromCredits,
  minus,
  parseAmount,
  percentOf,
  plainText,
  plus,
  toCredits,
  type Milli,
} from './money';

const LARGEST = 900_000_000_000_000 as Milli;

describe('credits of the API', () => {
  it.each([
    [0.001, 1],
    [0.1 + 0.2, 300],
    [47.599, 47_599],
    [-0.004, -4],
    [899_999_999_999.999, 899_999_999_999_999],
  ])('%d credits are %d millicredits', (credits, milli) => {
    expect(fromCredits(credits)).toBe(milli);
  });

  it('come back as they were, at both ends of what a balance can be', () => {
    for (const near of [0, 1, 999, 1000, LARGEST / 2, LARGEST - 1, LARGEST]) {
      for (const milli of [near, -near] as Milli[]) {
        expect(fromCredits(toCredits(milli)) === milli).toBe(true);
        expect(JSON.stringify(toCredits(milli))).not.toContain('e');
      }
    }
  });

  it('are refused beyond what is exact', () => {
    expect(() => fromCredits(1e16)).toThrow(RangeError);
    expect(() => plus(Number.MAX_SAFE_INTEGER as Milli, 1 as Milli)).toThrow(RangeError);
  });
});

describe('text', () => {
  it('always has three decimals', () => {
    expect(plainText(0 as Milli)).toBe('0.000');
    expect(plainText(-4 as Milli)).toBe('-0.004');
    expect(plainText(5_000_000 as Milli)).toBe('5000.000');
  });

  it('is written as the reader writes numbers', () => {
    const amount = 41_230_118 as Milli;
    expect(formatAmount(amount, 'en')).toBe('41,230.118');
    expect(formatAmount(amount, 'de')).toBe('41.230,118');
    expect(formatAmount(LARGEST, 'en')).toBe('900,000,000,000.000');
  });
});

describe('what somebody types', () => {
  it.each([
    ['20', 20_000],
    [' 0.001 ', 1],
    ['12,5', 12_500],
    ['.5', 500],
    ['1000000000', 1_000_000_000_000],
  ])('%s is %d millicredits', (text, milli) => {
    expect(parseAmount(text)).toEqual({ amount: milli, problem: null });
  });

  it.each(['', '0', '0.000', '-1', '1,234.5', '1e3', '0.0001', '.', 'ten', '1000000000.001'])(
    '%s is refused with a sentence',
    (text) => {
      expect(parseAmount(text).problem).toMatch(/\.$/);
    },
  );

  it('may be as much as one request can move', () => {
    expect(parseAmount(plainText(AMOUNT_MAX)).amount).toBe(AMOUNT_MAX);
  });
});

it('takes and shares without fractions', () => {
  expect(minus(100 as Milli, 1 as Milli)).toBe(99);
  expect(percentOf(333 as Milli, 1000 as Milli)).toBe(33.3);
  expect(percentOf(5 as Milli, 0 as Milli)).toBe(0);
});
