import { expect, it } from 'vitest';

import { nameOf, stacksOf, totalsOf } from './series';
import type { Schemas } from '../../../api/client';

const usage = {
  by: 'model',
  periods: ['2026-11-29', '2026-11-30'],
  series: [
    { key: 'gpt-4o', user_email: null, credits_used: 0.3, requests: 2, credits: [0.1, 0.2] },
    { key: null, user_email: null, credits_used: 0.2, requests: 1, credits: [0.2, 0] },
  ],
} as unknown as Schemas['UsageSeries'];

it('adds periods up exactly and names the rest', () => {
  expect(totalsOf(usage)).toEqual([300, 200]);
  expect(stacksOf(usage).map((one) => one.name)).toEqual(['gpt-4o', 'all others']);
});

it('tells keys of one name apart, and says what has none', () => {
  const key = { key: 'a1B2c3D4e5F6', key_name: 'gateway' } as unknown as Schemas['UsageSeriesOf'];
  expect(nameOf(key, 'key')).toBe('gateway (a1B2)');
  expect(nameOf({ ...key, key_name: null }, 'key')).toBe('a1B2c3D4e5F6');
  expect(nameOf({ ...key, key: null, key_name: null }, 'tag')).toBe('no tag, and all others');
});
