import Box from '@mui/material/Box';
import Dialog from '@mui/material/Dialog';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import { Fragment } from 'react';

import { useRail } from './railEntries';
import { paletteKeys } from './shortcuts';

export default function ShortcutList({ onClose }: { onClose: () => void }) {
  const places = useRail()
    .flatMap((group) => group.entries)
    .filter((entry) => entry.letter)
    .map((entry) => [`g ${entry.letter ?? ''}`, entry.title] as const);
  const keys = [[paletteKeys, 'Search, and act'], ['?', 'This list'], ['Esc', 'Close'], ...places];
  return (
    <Dialog open onClose={onClose} maxWidth="xs">
      <DialogTitle>Keyboard</DialogTitle>
      <DialogContent>
        <Box
          component="dl"
          sx={{ display: 'grid', gridTemplateColumns: '88px 1fr', rowGap: 1, m: 0 }}
        >
          {keys.map(([key, does]) => (
            <Fragment key={key}>
              <dt>
                <Box
                  component="kbd"
                  sx={{
                    px: 0.75,
                    py: 0.25,
                    border: 1,
                    borderColor: 'divider',
                    borderRadius: 0.75,
                    fontSize: '0.75rem',
                    fontFamily: 'inherit',
                  }}
                >
                  {key}
                </Box>
              </dt>
              <Box component="dd" sx={{ m: 0 }}>
                {does}
              </Box>
            </Fragment>
          ))}
        </Box>
      </DialogContent>
    </Dialog>
  );
}
