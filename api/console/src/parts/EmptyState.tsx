import Box from '@mui/material/Box';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';
import type { ReactNode } from 'react';

import { CommandLine } from './CommandLine';

interface EmptyStateProps {
  /** What is not there yet. */
  title: string;
  /** What to do about it, in a sentence. */
  children?: ReactNode;
  /** The button that does it. */
  action?: ReactNode;
  /** The command that does it, to be copied. */
  command?: string;
}

/** What stands where nothing is yet: it teaches the next step. */
export function EmptyState({ title, children, action, command }: EmptyStateProps) {
  return (
    <Stack sx={{ alignItems: 'center', textAlign: 'center', gap: 1, px: 2, py: 5 }}>
      <Typography variant="h3">{title}</Typography>
      {children && (
        <Typography variant="body2" sx={{ color: 'text.secondary', maxWidth: 460 }}>
          {children}
        </Typography>
      )}
      {action && <Box sx={{ mt: 1 }}>{action}</Box>}
      {command && <CommandLine text={command} />}
    </Stack>
  );
}
