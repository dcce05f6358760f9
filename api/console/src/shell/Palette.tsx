import Autocomplete from '@mui/material/Autocomplete';
import Box from '@mui/material/Box';
import Dialog from '@mui/material/Dialog';
import TextField from '@mui/material/TextField';
import Typography from '@mui/material/Typography';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';

import { usePaletteEntries } from './paletteEntries';

/** Finds screens, organisations, users and requests, and begins actions, by the keyboard alone. */
export default function Palette({ onClose }: { onClose: () => void }) {
  const [text, setText] = useState('');
  const entries = usePaletteEntries(text);
  const navigate = useNavigate();
  return (
    <Dialog
      open
      onClose={onClose}
      aria-label="Search, and act"
      sx={{ '& .MuiDialog-container': { alignItems: 'flex-start' } }}
      slotProps={{ paper: { sx: { p: 1.5, overflow: 'visible', mt: { xs: 2, sm: '12vh' } } } }}
    >
      <Autocomplete
        open
        autoHighlight
        disablePortal
        options={entries}
        filterOptions={(all) => all}
        groupBy={(entry) => entry.group}
        getOptionLabel={(entry) => entry.title}
        getOptionKey={(entry) => `${entry.group}/${entry.to}/${entry.title}`}
        inputValue={text}
        noOptionsText="Nothing of this name. A request is found by its whole id."
        onInputChange={(_event, typed, reason) => reason === 'input' && setText(typed)}
        onChange={(_event, chosen) => {
          if (!chosen) return;
          onClose();
          void navigate({ to: chosen.to, search: chosen.search ?? {} });
        }}
        onClose={(_event, reason) => reason === 'escape' && onClose()}
        renderInput={(params) => (
          <TextField
            {...params}
            autoFocus
            placeholder="A screen, an organisation, a user, the id of a request…"
          />
        )}
        renderOption={({ key, ...props }, entry) => (
          <Box component="li" key={key} {...props} sx={{ gap: 1.5 }}>
            <Typography noWrap sx={{ flex: 1 }}>
              {entry.title}
            </Typography>
            <Typography variant="caption" noWrap sx={{ color: 'text.secondary' }}>
              {entry.hint}
            </Typography>
          </Box>
        )}
        slotProps={{
          popper: {
            sx: {
              position: 'static !important',
              transform: 'none !important',
              width: '100% !important',
            },
          },
          paper: { elevation: 0, sx: { mt: 1 } },
          listbox: { sx: { maxHeight: 'min(420px, 55vh)' } },
        }}
      />
    </Dialog>
  );
}
