import Box from '@mui/material/Box';
import Tooltip from '@mui/material/Tooltip';
import Typography from '@mui/material/Typography';

import { formatClock } from '../lib/time';
import type { FeedState } from '../live/feed';
import { useLiveState } from '../live/useLive';

/** Whether the figures move with what is spent. Screens without live figures have no dot. */
export function LiveDot() {
  const state = useLiveState();
  if (state.status === 'off') return null;
  const live = state.status === 'live';
  return (
    <Tooltip title={explain(state)}>
      <Box
        role="status"
        tabIndex={0}
        sx={{ display: 'flex', alignItems: 'center', gap: 0.75, px: 1, borderRadius: 1 }}
      >
        <Box
          sx={{
            width: 8,
            height: 8,
            borderRadius: '50%',
            bgcolor: live ? 'success.main' : 'text.disabled',
            boxShadow: live
              ? '0 0 0 3px color-mix(in srgb, var(--tm-palette-success-main) 22%, transparent)'
              : 'none',
          }}
        />
        <Typography
          variant="caption"
          sx={{ color: 'text.secondary', display: { xs: 'none', sm: 'block' } }}
        >
          {WORDS[state.status]}
        </Typography>
      </Box>
    </Tooltip>
  );
}

const WORDS = { off: '', connecting: 'connecting', live: 'live', stale: 'not live' };

function explain(state: FeedState): string {
  if (state.status === 'live') return 'Balances are at most two seconds old.';
  if (state.status === 'connecting') return 'Waiting for the first live figures.';
  return state.asOf
    ? `No live figures since ${formatClock(state.asOf)}: what is shown is as of then.`
    : 'Live figures do not come: what is shown is as settled.';
}
