import { expect, it } from 'vitest';

import { leavesDoubt, NoAnswer, refusalOf, Refusal } from './refusal';

const refused = (status: number) => new Refusal(status, 'CODE', 'No.');

it('takes the words and figures of the API', async () => {
  const details = { need: 20, have: 4.001 };
  const body = { error: { code: 'INSUFFICIENT_CREDITS', message: 'Too little.', details } };
  const refusal = await refusalOf(
    new Response(JSON.stringify(body), { status: 400, headers: { 'x-request-id': 'r-1' } }),
  );
  expect(refusal.message).toBe('Too little.');
  expect(refusal.figure('have')).toBe(4.001);
  expect(refusal.figure('held')).toBeNull();
  expect(refusal.requestId).toBe('r-1');
});

it('says the status of an answer that is not the API’s', async () => {
  const refusal = await refusalOf(new Response('<html>', { status: 502 }));
  expect(refusal.code).toBe('HTTP_502');
});

it('is sure that a refused request changed nothing, and of nothing else', () => {
  for (const status of [400, 401, 403, 404, 409, 422, 429]) {
    expect(leavesDoubt(refused(status), false)).toBe(false);
  }
  for (const status of [408, 500, 502, 503, 504]) {
    expect(leavesDoubt(refused(status), false)).toBe(true);
  }
  expect(leavesDoubt(new NoAnswer(null), false)).toBe(true);
});

it('stays in doubt about an earlier try when something stands in the way of the next', () => {
  for (const status of [401, 403, 429]) expect(leavesDoubt(refused(status), true)).toBe(true);
  for (const status of [400, 404, 409, 422]) expect(leavesDoubt(refused(status), true)).toBe(false);
});
