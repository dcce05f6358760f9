import { BarChart } from '@mui/x-charts/BarChart';
import Box from '@mui/material/Box';
import { useColorScheme } from '@mui/material/styles';
import { useId } from 'react';

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
  /** Whether the last period still goes on: it is hatched, since it will grow. */
  openEnded?: boolean;
  height?: number;
}

/** Credits of each period, one bar a period; the exact figures are in the tooltip. */
export default function StackedBars(props: StackedBarsProps) {
  const { periods, stacks, label, openEnded = false, height = 260 } = props;
  const { colorScheme } = useColorScheme();
  const colours = colorScheme === 'dark' ? SERIES_DARK : SERIES_LIGHT;
  const hatches = `hatch${useId().replace(/\W/g, '')}`;
  const hatchOf = (place: number) => `${hatches}-${place}`;
  const open = openEnded ? periods.length - 1 : -1;
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
        colors={[...colours]}
        slotProps={{
          bar: ({ dataIndex, seriesId }) =>
            dataIndex === open ? { fill: `url(#${hatchOf(Number(seriesId))})` } : {},
        }}
        series={stacks.map(({ name, amounts }, place) => ({
          id: String(place),
          label: name,
          data: [...amounts],
          stack: 'all',
          valueFormatter: (value: number | null) => (value ? formatAmount(value as Milli) : null),
        }))}
        hideLegend={stacks.length < 2}
      >
        {openEnded && (
          <defs>
            {stacks.map(({ name }, place) => (
              <Hatch
                key={name}
                id={hatchOf(place)}
                colour={colours[place % colours.length] ?? ''}
              />
            ))}
          </defs>
        )}
      </BarChart>
    </Box>
  );
}

/** Stripes of a colour. */
function Hatch({ id, colour }: { id: string; colour: string }) {
  return (
    <pattern
      id={id}
      width={6}
      height={6}
      patternUnits="userSpaceOnUse"
      patternTransform="rotate(45)"
    >
      <rect width={6} height={6} fill={colour} fillOpacity={0.25} />
      <rect width={3} height={6} fill={colour} />
    </pattern>
  );
}
