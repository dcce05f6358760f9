/** The API's usage over time, as the chart and the table take it. */
import type { Schemas } from '../../../api/client';
import { fromCredits, plus, ZERO, type Milli } from '../../../lib/money';
import type { Stack } from '../../../parts/StackedBars';

type By = Schemas['UsageSeries']['by'];

/** What has no name of its own: smaller ones, and of keys and tags also what says none. */
const REST: Record<By, string> = {
  service: 'all others',
  model: 'all others',
  user: 'all others',
  key: 'no key, and all others',
  tag: 'no tag, and all others',
};

export function nameOf(one: Schemas['UsageSeriesOf'], by: By): string {
  if (one.key === null) return REST[by];
  // Keys may share a name, and one of before may have had it: the id tells them apart.
  if (by === 'key')
    return one.key_name === null ? one.key : `${one.key_name} (${one.key.slice(0, 4)})`;
  return one.user_email ?? one.key;
}

export function stacksOf({ series, by }: Schemas['UsageSeries']): Stack[] {
  return series.map((one) => ({ name: nameOf(one, by), amounts: one.credits.map(fromCredits) }));
}

/** What was used in each period, of everything. */
export function totalsOf(usage: Schemas['UsageSeries']): Milli[] {
  return usage.periods.map((_period, index) =>
    plus(...usage.series.map((one) => fromCredits(one.credits[index] ?? 0)), ZERO),
  );
}
