import Box from '@mui/material/Box';
import Typography from '@mui/material/Typography';
import type { ReactNode } from 'react';

export interface Figure {
  name: string;
  value: ReactNode;
}

/** Figures side by side, each below its name. */
export function Figures({ of }: { of: readonly Figure[] }) {
  return (
    <Box
      component="dl"
      sx={{
        display: 'grid',
        gridTemplateColumns: 'repeat(auto-fill, minmax(150px, 1fr))',
        gap: 2,
        m: 0,
      }}
    >
      {of.map((one) => (
        <Box key={one.name}>
          <Typography component="dt" variant="body2" sx={{ color: 'text.secondary' }}>
            {one.name}
          </Typography>
          <Typography
            component="dd"
            sx={{ m: 0, fontSize: '1.125rem', fontWeight: 600, fontVariantNumeric: 'tabular-nums' }}
          >
            {one.value}
          </Typography>
        </Box>
      ))}
    </Box>
  );
}
