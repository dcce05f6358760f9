import Box from '@mui/material/Box';
import Paper from '@mui/material/Paper';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';
import type { ReactNode } from 'react';

import { Logo } from '../parts/Logo';

/** A page outside the shell: one box in the middle. */
export function Plain({
  title,
  about,
  children,
}: {
  title: string;
  about: string;
  children?: ReactNode;
}) {
  return (
    <Box component="main" sx={{ display: 'grid', placeItems: 'center', minHeight: '100dvh', p: 2 }}>
      <Paper variant="outlined" sx={{ p: 4, width: '100%', maxWidth: 400 }}>
        <Stack sx={{ gap: 2.5 }}>
          <Logo />
          <div>
            <Typography variant="h1" gutterBottom>
              {title}
            </Typography>
            <Typography sx={{ color: 'text.secondary' }}>{about}</Typography>
          </div>
          {children}
        </Stack>
      </Paper>
    </Box>
  );
}
