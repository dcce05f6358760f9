import Autocomplete from '@mui/material/Autocomplete';
import Box from '@mui/material/Box';
import ButtonBase from '@mui/material/ButtonBase';
import Popover from '@mui/material/Popover';
import TextField from '@mui/material/TextField';
import Typography from '@mui/material/Typography';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';

import { rememberOrg, useShownOrg } from './shownOrg';
import { useOrganizationSearch } from '../api/organizations';
import { DownIcon } from '../parts/icons';
import { useSession } from '../session/session';

/** The first thing in the head: which organisation is looked at. System admins may look at all. */
export function OrganizationSwitcher() {
  const [anchor, setAnchor] = useState<HTMLElement | null>(null);
  const shown = useShownOrg();
  return (
    <>
      <ButtonBase
        aria-haspopup="listbox"
        aria-expanded={anchor !== null}
        onClick={(event) => setAnchor(event.currentTarget)}
        sx={{
          gap: 0.75,
          px: 1.25,
          height: 36,
          minWidth: 0,
          borderRadius: 1,
          '&:hover, &:focus-visible': { bgcolor: 'action.hover' },
        }}
      >
        <Typography
          component="span"
          noWrap
          sx={{ fontWeight: 600, maxWidth: { xs: 150, sm: 260 } }}
        >
          {shown?.name ?? 'Choose an organisation'}
        </Typography>
        <DownIcon sx={{ fontSize: 16, color: 'text.secondary' }} />
      </ButtonBase>
      <Popover
        open={anchor !== null}
        anchorEl={anchor}
        onClose={() => setAnchor(null)}
        anchorOrigin={{ vertical: 'bottom', horizontal: 'left' }}
        slotProps={{
          paper: {
            sx: { width: 340, maxWidth: 'calc(100vw - 16px)', p: 1.5, overflow: 'visible' },
          },
        }}
      >
        <Choice onChosen={() => setAnchor(null)} />
      </Popover>
    </>
  );
}

function Choice({ onChosen }: { onChosen: () => void }) {
  const session = useSession();
  const navigate = useNavigate();
  const [text, setText] = useState('');
  const { found, isLoading } = useOrganizationSearch(session, text);
  return (
    <Autocomplete
      open
      disablePortal
      options={found}
      loading={isLoading}
      noOptionsText={
        text ? 'No organisation has this in its name' : 'You are in no organisation yet'
      }
      filterOptions={(all) => all}
      getOptionLabel={(one) => one.name}
      getOptionKey={(one) => one.orgId}
      isOptionEqualToValue={(one, other) => one.orgId === other.orgId}
      inputValue={text}
      onInputChange={(_event, typed, reason) => reason === 'input' && setText(typed)}
      onChange={(_event, chosen) => {
        if (!chosen) return;
        rememberOrg(chosen.orgId);
        onChosen();
        void navigate({ to: '/o/$orgId', params: { orgId: chosen.orgId } });
      }}
      renderInput={(params) => (
        <TextField {...params} autoFocus placeholder="Find an organisation" />
      )}
      renderOption={({ key, ...props }, one) => (
        <Box component="li" key={key} {...props}>
          <Box sx={{ minWidth: 0 }}>
            <Typography noWrap>{one.name}</Typography>
            <Typography variant="caption" noWrap sx={{ color: 'text.secondary' }}>
              {one.orgId}
              {one.role ? ` · ${one.role}` : ''}
            </Typography>
          </Box>
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
        listbox: { sx: { maxHeight: 320 } },
      }}
    />
  );
}
