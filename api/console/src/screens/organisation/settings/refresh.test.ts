import { expect, it } from 'vitest';

import { refreshOf } from './refresh';

it('takes amounts, and 0 as none', () => {
  expect(refreshOf('1250.5')).toBe(1_250_500);
  for (const none of ['0', ' 0.000 ', '0,0', '00']) expect(refreshOf(none)).toBe(0);
  for (const wrong of ['', '-1', '0.0000', 'none', '1,234.5']) expect(refreshOf(wrong)).toBeNull();
});
