import { expect, it } from 'vitest';

import { linePoints } from './sparklinePoints';
import type { Milli } from '../lib/money';

it('goes from ground to top, as high as the largest day', () => {
  expect(linePoints([0, 500, 1000] as Milli[], 22, 12)).toBe('1,11 11,6 21,1');
});

it('lies on the ground where nothing was used, and has a point for a lone day', () => {
  expect(linePoints([0, 0] as Milli[], 22, 12)).toBe('1,11 21,11');
  expect(linePoints([7] as Milli[], 22, 12)).toBe('1,1');
});
