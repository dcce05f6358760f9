import { expect, it } from 'vitest';

import { stacksOf, totalsOf } from './series';
import type { Schemas } from '../../../api/client';

const usage = {
  periods: ['2026-11-29', '2026-11-30'],
  series: [
    { key: 'gpt-4o', user_email: null, credits_used: 0.3, requests: 2, credits: [0.1, 0.2] },
    { key: null, user_email: null, credits_used: 0.2, requests: 1, credits: [0.2, 0] },
  ],
} as unknown as Schemas['UsageSeries'];

it('adds periods up exactly and names the rest', () => {
  expect(totalsOf(usage)).toEqual([300, 200]);
  expect(stacksOf(usage.series).map((one) => one.name)).toEqual(['gpt-4o', 'all others']);
});
