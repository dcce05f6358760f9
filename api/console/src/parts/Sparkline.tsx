import Box from '@mui/material/Box';

import { linePoints } from './sparklinePoints';
import { formatAmount, plus, ZERO, type Milli } from '../lib/money';

const WIDTH = 72;
const HEIGHT = 20;

/** The last days in a line as high as a row; the sum is said to who does not see it. */
export function Sparkline({ amounts }: { amounts: readonly Milli[] }) {
  const sum = plus(...amounts, ZERO);
  return (
    <Box
      component="svg"
      role="img"
      aria-label={`${formatAmount(sum)} credits in the last ${amounts.length} days`}
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      sx={{ width: WIDTH, height: HEIGHT, color: sum > 0 ? 'primary.main' : 'text.disabled' }}
    >
      <polyline
        points={linePoints(amounts, WIDTH, HEIGHT)}
        fill="none"
        stroke="currentColor"
        strokeWidth={1.5}
        strokeLinejoin="round"
      />
    </Box>
  );
}
