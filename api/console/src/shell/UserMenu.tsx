import Avatar from '@mui/material/Avatar';
import Divider from '@mui/material/Divider';
import IconButton from '@mui/material/IconButton';
import ListItemText from '@mui/material/ListItemText';
import Menu from '@mui/material/Menu';
import MenuItem from '@mui/material/MenuItem';
import { useMutation } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';

import { useSay } from '../parts/Said';
import { signOut, useSession } from '../session/session';

export function UserMenu({ onHelp }: { onHelp: () => void }) {
  const session = useSession();
  const navigate = useNavigate();
  const say = useSay();
  const [anchor, setAnchor] = useState<HTMLElement | null>(null);
  const leave = useMutation({
    mutationFn: signOut,
    onError: (error) => say(error.message, 'error'),
  });
  const name = session.name ?? session.email ?? session.userId;
  const close = () => setAnchor(null);
  const andClose = (act: () => void) => () => {
    close();
    act();
  };
  return (
    <>
      <IconButton
        aria-label={`Account of ${name}`}
        aria-haspopup="menu"
        onClick={(event) => setAnchor(event.currentTarget)}
        sx={{ p: 0.5 }}
      >
        <Avatar
          sx={{
            width: 30,
            height: 30,
            fontSize: '0.8125rem',
            bgcolor: 'primary.main',
            color: 'primary.contrastText',
          }}
        >
          {name.slice(0, 1).toUpperCase()}
        </Avatar>
      </IconButton>
      <Menu
        anchorEl={anchor}
        open={anchor !== null}
        onClose={close}
        slotProps={{ paper: { sx: { minWidth: 220, maxWidth: 320 } } }}
      >
        <MenuItem disabled sx={{ '&.Mui-disabled': { opacity: 1 } }}>
          <ListItemText
            primary={name}
            secondary={session.isSystemAdmin ? `${session.userId} · system admin` : session.userId}
            slotProps={{
              primary: { noWrap: true, sx: { fontWeight: 600 } },
              secondary: { noWrap: true },
            }}
          />
        </MenuItem>
        <Divider />
        <MenuItem onClick={andClose(() => void navigate({ to: '/me' }))}>My credits</MenuItem>
        <MenuItem onClick={andClose(onHelp)}>Keyboard</MenuItem>
        <MenuItem component="a" href="/docs" onClick={close}>
          API reference
        </MenuItem>
        <Divider />
        <MenuItem onClick={andClose(() => leave.mutate())}>Sign out</MenuItem>
      </Menu>
    </>
  );
}
