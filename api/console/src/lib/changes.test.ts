import { expect, test } from 'vitest';

import { changesOf } from './changes';

test('what stayed the same is left out, what came or went is said', () => {
  expect(
    changesOf(
      { org_name: 'Acme', plan: 'starter', gone: 1 },
      { org_name: 'Acme', plan: 'enterprise', keys: ['a'] },
    ),
  ).toEqual([
    { name: 'plan', before: 'starter', after: 'enterprise' },
    { name: 'gone', before: '1', after: null },
    { name: 'keys', before: null, after: '["a"]' },
  ]);
  expect(changesOf(null, { reason: null, user_id: 'ann' })).toEqual([
    { name: 'user id', before: null, after: 'ann' },
  ]);
});
