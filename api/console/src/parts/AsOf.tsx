import Box from '@mui/material/Box';
import Typography from '@mui/material/Typography';

import { Moment } from './Moment';

interface AsOfProps {
  /** Whether the figures come from the live stream at this moment. */
  live?: boolean;
  at: string | null | undefined;
  /** False when the books lag: figures may still grow. */
  complete?: boolean;
}

/** Says how fresh the figures beside it are: live, or as of a moment. There is nothing else. */
export function AsOf({ live = false, at, complete = true }: AsOfProps) {
  return (
    <Typography variant="caption" sx={{ color: 'text.secondary', whiteSpace: 'nowrap' }}>
      {live ? (
        <Box component="span" sx={{ display: 'inline-flex', alignItems: 'center', gap: 0.75 }}>
          <Box
            component="span"
            aria-hidden
            sx={{ width: 7, height: 7, borderRadius: '50%', bgcolor: 'success.main' }}
          />
          live
        </Box>
      ) : at ? (
        <>
          as of <Moment at={at} as="clock" />
          {complete ? '' : ', not all settled yet'}
        </>
      ) : (
        'nothing settled yet'
      )}
    </Typography>
  );
}
