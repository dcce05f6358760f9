import { expect, it } from 'vitest';

import {
  daysBetween,
  formatAgo,
  formatClock,
  formatDay,
  formatUtc,
  utcDayBefore,
  reachesToday,
} from './time';

const NOON = '2026-11-30T12:03:22.481Z';

it('says UTC the same way everywhere', () => {
  expect(formatUtc(NOON)).toBe('2026-11-30 12:03:22 UTC');
  expect(formatUtc('2026-11-30T13:03:22+01:00')).toBe('2026-11-30 12:03:22 UTC');
});

it('keeps a day of the books that day, wherever the reader lives', () => {
  expect(formatDay('2026-11-01')).toContain('1');
  expect(formatDay('2026-11-01')).not.toContain('31');
});

it('says the date with the clock only on another day', () => {
  expect(formatClock(NOON, new Date(NOON))).not.toContain('2026');
  expect(formatClock(NOON, new Date('2026-12-02T12:00:00Z'))).toContain('2026');
});

it.each([
  ['2026-11-30T12:03:10.481Z', '12 seconds ago'],
  ['2026-11-30T10:00:00Z', '2 hours ago'],
  ['2026-12-03T13:00:00Z', 'in 3 days'],
])('%s is %s', (moment, words) => {
  expect(formatAgo(moment, Date.parse(NOON))).toBe(words);
});

it('counts days in UTC', () => {
  expect(utcDayBefore(0, Date.parse(NOON))).toBe('2026-11-30');
  expect(utcDayBefore(30, Date.parse(NOON))).toBe('2026-10-31');
  expect(daysBetween('2026-11-01', '2026-11-30')).toBe(30);
  expect(daysBetween('2026-11-30', '2026-11-30')).toBe(1);
});

it('knows which range goes on: days are those of UTC', () => {
  const now = Date.parse('2026-11-30T23:59:00Z');
  expect(reachesToday('2026-11-30', now)).toBe(true);
  expect(reachesToday('2026-11-29', now)).toBe(false);
});
