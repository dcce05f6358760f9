import { BarChart } from '@mui/x-charts/BarChart';
import Box from '@mui/material/Box';
import { useColorScheme } from '@mui/material/styles';

import { SERIES_DARK, SERIES_LIGHT } from '../app/theme';
import { formatAmount, roughly, type Milli } from '../lib/money';
import { formatDayShort } from '../lib/time';

export interface Stack {
  name: string;
  /** Of each period, in the order of the periods. */
  amounts: readonly Milli[];
}

interface StackedBarsProps {
  /** The first days of the periods, in UTC. */
  periods: readonly string[];
  stacks: readonly Stack[];
  label: string;
  height?: number;
}

/** Credits of each period, one bar a period; the exact figures are in the tooltip. */
export default function StackedBars({ periods, stacks, label, height = 260 }: StackedBarsProps) {
  const { colorScheme } = useColorScheme();
  return (
    <Box role="img" aria-label={label} sx={{ '& .MuiChartsLegend-root': { rowGap: 0.25 } }}>
      <BarChart
        height={height}
        skipAnimation
        borderRadius={2}
        margin={{ left: 0, right: 4, top: 8, bottom: 0 }}
        xAxis={[
          {
            scaleType: 'band',
            data: [...periods],
            valueFormatter: (period: string) => formatDayShort(period),
            categoryGapRatio: 0.25,
            disableTicks: true,
          },
        ]}
        yAxis={[
          {
            width: 48,
            disableLine: true,
            disableTicks: true,
            valueFormatter: (value: number) => roughly(value as Milli),
          },
        ]}
        grid={{ horizontal: true }}
        colors={[...(colorScheme === 'dark' ? SERIES_DARK : SERIES_LIGHT)]}
        series={stacks.map(({ name, amounts }) => ({
          label: name,
          data: [...amounts],
          stack: 'all',
          valueFormatter: (value: number | null) => (value ? formatAmount(value as Milli) : null),
        }))}
        hideLegend={stacks.length < 2}
      />
    </Box>
  );
}
