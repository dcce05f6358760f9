import Box from '@mui/material/Box';
import Tooltip from '@mui/material/Tooltip';
import Typography from '@mui/material/Typography';

import { formatAmount, type Milli } from '../../lib/money';
import { formatDay, formatDayShort } from '../../lib/time';

interface DayOf {
  day: string;
  amount: Milli;
  requests: number;
}

/** A bar a day, with the exact figures on hover and for who hears the page. The last one goes on. */
export function Trend({ days }: { days: readonly DayOf[] }) {
  const largest = Math.max(1, ...days.map((one) => one.amount));
  return (
    <Box
      component="ol"
      sx={{ display: 'flex', gap: 1, height: 150, m: 0, p: 0, listStyle: 'none' }}
    >
      {days.map((one, place) => {
        const said = `${formatDay(one.day)}: ${formatAmount(one.amount)} credits, ${one.requests.toLocaleString()} requests`;
        return (
          <Tooltip key={one.day} title={said}>
            <Box
              component="li"
              aria-label={said}
              sx={{
                flex: 1,
                minWidth: 0,
                display: 'flex',
                flexDirection: 'column',
                justifyContent: 'flex-end',
                alignItems: 'stretch',
                gap: 0.5,
              }}
            >
              <Box
                style={{ height: `${(100 * one.amount) / largest}%` }}
                sx={{
                  minHeight: 2,
                  borderRadius: '4px 4px 0 0',
                  bgcolor: 'pool.used',
                  opacity: place === days.length - 1 ? 0.6 : 1,
                }}
              />
              <Typography
                variant="caption"
                noWrap
                sx={{ color: 'text.secondary', textAlign: 'center' }}
              >
                {formatDayShort(one.day)}
              </Typography>
            </Box>
          </Tooltip>
        );
      })}
    </Box>
  );
}
