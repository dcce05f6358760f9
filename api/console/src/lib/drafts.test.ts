import { beforeEach, expect, it } from 'vitest';

import { endDraft, markRefused, markSent, openDraft } from './drafts';

const NAME = 'ann/acme/transfer';

beforeEach(() => sessionStorage.clear());

it('keeps its key over a reload', () => {
  expect(openDraft(NAME).key).toBe(openDraft(NAME).key);
  expect(openDraft(NAME).key).toMatch(/^[0-9a-f]{32}$/);
});

it('remembers what was sent until its answer is known', () => {
  const draft = openDraft(NAME);
  markSent(NAME, draft, { credits: 5 });
  expect(openDraft(NAME)).toEqual({ key: draft.key, sent: { credits: 5 } });
  endDraft(NAME);
  expect(openDraft(NAME).sent).toBeNull();
  expect(openDraft(NAME).key).not.toBe(draft.key);
});

it('keeps its key after a refusal, which has changed nothing', () => {
  const draft = openDraft(NAME);
  markSent(NAME, draft, { credits: 5 });
  markRefused(NAME, draft);
  expect(openDraft(NAME)).toEqual({ key: draft.key, sent: null });
});

it('is one of each name', () => {
  expect(openDraft(NAME).key).not.toBe(openDraft('ann/other/transfer').key);
});
