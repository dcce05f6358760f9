/** The API's usage over time, as the chart and the table take it. */
import type { Schemas } from '../../../api/client';
import { fromCredits, plus, ZERO, type Milli } from '../../../lib/money';
import type { Stack } from '../../../parts/StackedBars';

const REST = 'all others';

export function nameOf(one: Schemas['UsageSeriesOf']): string {
  return one.user_email ?? one.key ?? REST;
}

export function stacksOf(series: readonly Schemas['UsageSeriesOf'][]): Stack[] {
  return series.map((one) => ({ name: nameOf(one), amounts: one.credits.map(fromCredits) }));
}

/** What was used in each period, of everything. */
export function totalsOf(usage: Schemas['UsageSeries']): Milli[] {
  return usage.periods.map((_period, index) =>
    plus(...usage.series.map((one) => fromCredits(one.credits[index] ?? 0)), ZERO),
  );
}
