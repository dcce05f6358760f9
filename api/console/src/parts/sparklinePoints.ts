import type { Milli } from '../lib/money';

const MARGIN = 1;

/** Points of a line from the first day at the left to the last one; 0 lies on the ground. */
export function linePoints(amounts: readonly Milli[], width: number, height: number): string {
  const most = Math.max(...amounts, 1);
  const step = (width - 2 * MARGIN) / Math.max(amounts.length - 1, 1);
  return amounts
    .map((amount, place) => {
      const y = height - MARGIN - (amount / most) * (height - 2 * MARGIN);
      return `${round(MARGIN + place * step)},${round(y)}`;
    })
    .join(' ');
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
