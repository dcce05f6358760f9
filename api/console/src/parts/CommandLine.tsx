import Box from '@mui/material/Box';

import { CopyButton } from './CopyButton';
import { MONO } from '../app/theme';

/** A command or a secret that can be copied. */
export function CommandLine({
  text,
  label = 'Copy the command',
}: {
  text: string;
  label?: string;
}) {
  return (
    <Box
      sx={{
        display: 'flex',
        alignItems: 'flex-start',
        gap: 1,
        mt: 1,
        pl: 1.5,
        pr: 0.5,
        py: 0.5,
        maxWidth: '100%',
        borderRadius: 1,
        border: 1,
        borderColor: 'divider',
        bgcolor: 'background.default',
      }}
    >
      <Box
        component="code"
        sx={{
          fontFamily: MONO,
          fontSize: '0.75rem',
          lineHeight: 1.6,
          py: 0.5,
          textAlign: 'left',
          whiteSpace: 'pre-wrap',
          overflowWrap: 'anywhere',
          minWidth: 0,
        }}
      >
        {text}
      </Box>
      <CopyButton text={text} label={label} />
    </Box>
  );
}
