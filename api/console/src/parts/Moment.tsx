import Box from '@mui/material/Box';
import Tooltip from '@mui/material/Tooltip';

import { formatAgo, formatClock, formatMoment, formatUtc } from '../lib/time';

interface MomentProps {
  /** ISO 8601, as the API writes it; null is said as a dash. */
  at: string | null | undefined;
  as?: 'moment' | 'ago' | 'clock';
}

const WRITTEN = {
  moment: (iso: string) => formatMoment(iso),
  ago: (iso: string) => formatAgo(iso),
  clock: (iso: string) => formatClock(iso),
};

/** A moment in the reader's time; UTC on hover and on focus. */
export function Moment({ at, as = 'moment' }: MomentProps) {
  if (!at)
    return (
      <Box component="span" sx={{ color: 'text.secondary' }}>
        –
      </Box>
    );
  return (
    <Tooltip title={formatUtc(at)}>
      <Box
        component="time"
        dateTime={at}
        sx={{ fontVariantNumeric: 'tabular-nums', whiteSpace: 'nowrap' }}
      >
        {WRITTEN[as](at)}
      </Box>
    </Tooltip>
  );
}
