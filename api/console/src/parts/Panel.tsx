import Box from '@mui/material/Box';
import Paper from '@mui/material/Paper';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';
import type { SxProps, Theme } from '@mui/material/styles';
import { useId, type ReactNode } from 'react';

interface PanelProps {
  title?: ReactNode;
  /** At the right of the title: how fresh, or a button. */
  aside?: ReactNode;
  /** Tables reach the edges of their panel. */
  flush?: boolean;
  sx?: SxProps<Theme>;
  children: ReactNode;
}

/** A box with a title and what belongs together. */
export function Panel({ title, aside, flush = false, sx, children }: PanelProps) {
  const id = useId();
  return (
    <Paper
      component="section"
      variant="outlined"
      aria-labelledby={title ? id : undefined}
      sx={[
        { display: 'flex', flexDirection: 'column', minWidth: 0, overflow: 'hidden' },
        sx as never,
      ]}
    >
      {title && (
        <Stack
          direction="row"
          sx={{
            px: 2,
            pt: 1.75,
            pb: flush ? 1.25 : 0,
            gap: 2,
            alignItems: 'center',
            justifyContent: 'space-between',
          }}
        >
          <Typography id={id} variant="h2">
            {title}
          </Typography>
          {aside}
        </Stack>
      )}
      <Box sx={{ p: flush ? 0 : 2, pt: title && !flush ? 1.25 : undefined, flex: 1, minWidth: 0 }}>
        {children}
      </Box>
    </Paper>
  );
}
