import Box from '@mui/material/Box';
import Tooltip from '@mui/material/Tooltip';
import Typography from '@mui/material/Typography';

import { Amount } from './Amount';
import { formatAmount, type Milli } from '../lib/money';

export interface PoolPart {
  name: string;
  amount: Milli;
  colour: 'used' | 'held' | 'allocated' | 'free';
  /** What the part is, in a sentence. */
  meaning: string;
}

/** One bar that is a whole, and a legend with every figure of it. */
export function PoolBar({ parts, label }: { parts: readonly PoolPart[]; label: string }) {
  const shown = parts.filter((part) => part.amount > 0);
  const whole = shown.reduce((sum, part) => sum + part.amount, 0);
  return (
    <Box>
      <Box
        role="img"
        aria-label={`${label}: ${parts.map((part) => `${part.name} ${formatAmount(part.amount)}`).join(', ')}`}
        sx={{
          display: 'flex',
          gap: '2px',
          height: 18,
          borderRadius: 1,
          overflow: 'hidden',
          bgcolor: 'pool.free',
        }}
      >
        {shown.map((part) => (
          <Tooltip key={part.name} title={`${part.name} ${formatAmount(part.amount)}`}>
            <Box
              style={{ flexGrow: part.amount / whole }}
              sx={{
                flexBasis: 0,
                minWidth: 3,
                bgcolor: `pool.${part.colour}`,
                transition: 'flex-grow 300ms',
              }}
            />
          </Tooltip>
        ))}
      </Box>
      <Box
        component="dl"
        sx={{
          display: 'grid',
          gridTemplateColumns: { xs: '1fr 1fr', sm: 'repeat(4, minmax(0, auto))' },
          justifyContent: { sm: 'start' },
          columnGap: { xs: 2, sm: 5 },
          rowGap: 1.5,
          m: 0,
          mt: 1.75,
        }}
      >
        {parts.map((part) => (
          <Box key={part.name}>
            <Typography component="dt" variant="body2" sx={{ color: 'text.secondary' }}>
              <Tooltip title={part.meaning}>
                <Box
                  component="span"
                  tabIndex={0}
                  sx={{ display: 'inline-flex', alignItems: 'center', gap: 0.875 }}
                >
                  <Box
                    component="span"
                    aria-hidden
                    sx={{
                      width: 10,
                      height: 10,
                      borderRadius: '3px',
                      bgcolor: `pool.${part.colour}`,
                      outline: 1,
                      outlineColor: 'divider',
                    }}
                  />
                  {part.name}
                </Box>
              </Tooltip>
            </Typography>
            <Typography component="dd" sx={{ m: 0, fontSize: '1.0625rem', fontWeight: 600 }}>
              <Amount of={part.amount} />
            </Typography>
          </Box>
        ))}
      </Box>
    </Box>
  );
}
