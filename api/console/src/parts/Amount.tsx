import Box from '@mui/material/Box';
import type { SxProps, Theme } from '@mui/material/styles';

import { formatAmount, type Milli } from '../lib/money';

/** Credits, in figures of one width so that columns line up. The unit is said once, by the head. */
export function Amount({ of, sx }: { of: Milli; sx?: SxProps<Theme> }) {
  return (
    <Box
      component="span"
      sx={[{ fontVariantNumeric: 'tabular-nums', whiteSpace: 'nowrap' }, ...asList(sx)]}
    >
      {formatAmount(of)}
    </Box>
  );
}

/** A whole number, such as of requests. */
export function Count({ of }: { of: number }) {
  return (
    <Box component="span" sx={{ fontVariantNumeric: 'tabular-nums' }}>
      {of.toLocaleString()}
    </Box>
  );
}

function asList(sx: SxProps<Theme> | undefined) {
  return Array.isArray(sx) ? (sx as readonly SxProps<Theme>[] as never[]) : [sx as never];
}
