import Autocomplete from '@mui/material/Autocomplete';
import Box from '@mui/material/Box';
import TextField from '@mui/material/TextField';
import Typography from '@mui/material/Typography';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';

import { rememberOrg } from './shownOrg';
import { useOrganizationSearch } from '../api/organizations';
import { useSession } from '../session/session';

/** Finds an organisation, and goes there. */
export default function OrganizationChoice({ onChosen }: { onChosen: () => void }) {
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
