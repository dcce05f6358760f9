/** Moments come from the API in UTC; they are shown in the reader's own time, with UTC on hover. */

const DAY_MS = 86_400_000;

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const dateAndTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });
const utcDay = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeZone: 'UTC' });
const utcDayShort = new Intl.DateTimeFormat(undefined, {
  day: 'numeric',
  month: 'short',
  timeZone: 'UTC',
});
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto' });

/** `12:03:22`, today; with its date on any other day. */
export function formatClock(iso: string, now = new Date()): string {
  const moment = new Date(iso);
  return moment.toDateString() === now.toDateString()
    ? clock.format(moment)
    : dateAndTime.format(moment);
}

export function formatMoment(iso: string): string {
  return dateAndTime.format(new Date(iso));
}

/** `2026-11-30 12:03:22 UTC`, the same for every reader. */
export function formatUtc(iso: string): string {
  return `${new Date(iso).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

/** A day of the books, which is a day in UTC: `Nov 30, 2026`. */
export function formatDay(day: string): string {
  return utcDay.format(new Date(`${day.slice(0, 10)}T00:00:00Z`));
}

/** The same on an axis: `30 Nov`. */
export function formatDayShort(day: string): string {
  return utcDayShort.format(new Date(`${day.slice(0, 10)}T00:00:00Z`));
}

const STEPS: readonly (readonly [Intl.RelativeTimeFormatUnit, number])[] = [
  ['year', 365 * DAY_MS],
  ['month', 30 * DAY_MS],
  ['day', DAY_MS],
  ['hour', 3_600_000],
  ['minute', 60_000],
  ['second', 1000],
];

/** `12 seconds ago`, `in 3 days`. */
export function formatAgo(iso: string, now = Date.now()): string {
  const distance = new Date(iso).getTime() - now;
  for (const [unit, length] of STEPS) {
    if (Math.abs(distance) >= length || unit === 'second') {
      return relative.format(Math.trunc(distance / length), unit);
    }
  }
  return '';
}

/** The day in UTC that is `back` days before today, as the API writes days: `2026-11-30`. */
export function utcDayBefore(back: number, now = Date.now()): string {
  return new Date(now - back * DAY_MS).toISOString().slice(0, 10);
}

/** Whole days from one day of the books to another, both counted: 1 for the same day. */
export function daysBetween(first: string, last: string): number {
  return Math.round((Date.parse(last) - Date.parse(first)) / DAY_MS) + 1;
}

/** Whether a range of days of the books has today as well, which is not over. */
export function reachesToday(last: string, now = Date.now()): boolean {
  return last.slice(0, 10) >= utcDayBefore(0, now);
}

export function isPast(iso: string, now = Date.now()): boolean {
  return new Date(iso).getTime() <= now;
}
