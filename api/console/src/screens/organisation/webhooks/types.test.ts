import { expect, it } from 'vitest';

import { groupsOf, typesInWords, typesOf } from './types';

it('takes all groups for everything, and the other way round', () => {
  const all = groupsOf(['*']);
  expect(all).toHaveLength(7);
  expect(typesOf(all, ['*'])).toEqual(['*']);
  expect(typesOf(all, [])).toEqual(['*']);
  expect(typesInWords(['*'])).toBe('everything');
});

it('leaves a group that is chosen in part as it is', () => {
  expect(groupsOf(['key.revoked', 'pool.low'])).toEqual(['pool', 'key']);
  expect(typesOf(['pool', 'key'], ['key.revoked', 'pool.low'])).toEqual([
    'pool.low',
    'key.revoked',
  ]);
  expect(typesOf(['invoice', 'key'], ['key.revoked'])).toEqual([
    'invoice.paid',
    'invoice.failed',
    'key.revoked',
  ]);
});

it('asks for all of a group that is added, and none of one that is left', () => {
  expect(typesOf(['pool'], ['*'])).toEqual(['pool.low', 'pool.exhausted']);
});

it('leaves what is of no group as it is', () => {
  expect(typesOf(['key'], ['receiver.disabled', 'key.created'])).toEqual([
    'key.created',
    'receiver.disabled',
  ]);
});
