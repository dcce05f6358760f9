import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { follow, OFF, STALE_AFTER_MS, type FeedState } from './feed';

class Source extends EventTarget {
  static readonly CLOSED = 2;
  static last: Source;
  readyState = 1;
  constructor(readonly url: string) {
    super();
    Source.last = this;
  }
  close() {
    this.readyState = Source.CLOSED;
  }
  say(type: string, data: unknown) {
    this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(data) }));
  }
}

const BEAT = { as_of: '2026-11-30T12:03:22Z', live: true };
const MEMBER = {
  user_id: 'ann',
  available_credits: 45.199,
  held_credits: 2.4,
  remaining_credits: 47.599,
  live: true,
};

let state: FeedState;
let stop: () => void;

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal('EventSource', Source);
  state = OFF;
  stop = follow('acme', ['ann', 'bob'], (next) => (state = next));
});

afterEach(() => {
  stop();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it('asks for the members in view', () => {
  expect(Source.last.url).toBe('/api/v1/org-billing/credits/acme/live?user=ann&user=bob');
});

it('keeps figures as millicredits, and those of members that are not told again', () => {
  Source.last.say('balances', { ...BEAT, pool: null, members: [MEMBER] });
  Source.last.say('balances', { ...BEAT, pool: null, members: [] });
  expect(state.status).toBe('live');
  expect(state.members.get('ann')).toEqual({
    available: 45_199,
    held: 2_400,
    remaining: 47_599,
    live: true,
  });
});

it('is stale after five seconds of silence, and live again with the next beat', () => {
  Source.last.say('beat', BEAT);
  vi.advanceTimersByTime(STALE_AFTER_MS - 1);
  expect(state.status).toBe('live');
  vi.advanceTimersByTime(1);
  expect(state.status).toBe('stale');
  Source.last.say('beat', BEAT);
  expect(state.status).toBe('live');
});

it('is stale while the figures are only as settled', () => {
  Source.last.say('beat', { ...BEAT, live: false });
  expect(state.status).toBe('stale');
});

it('connects again when the server stops, and not when the membership is lost', () => {
  const first = Source.last;
  first.say('end', { code: 'server_stops', message: '' });
  vi.advanceTimersByTime(10_000);
  const second = Source.last;
  expect(second).not.toBe(first);
  second.say('end', { code: 'PERMISSION_DENIED', message: '' });
  vi.advanceTimersByTime(10_000);
  expect(Source.last).toBe(second);
});
