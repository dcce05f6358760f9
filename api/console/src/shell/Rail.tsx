import BottomNavigation from '@mui/material/BottomNavigation';
import BottomNavigationAction from '@mui/material/BottomNavigationAction';
import Box from '@mui/material/Box';
import List from '@mui/material/List';
import ListItemButton from '@mui/material/ListItemButton';
import ListItemIcon from '@mui/material/ListItemIcon';
import ListItemText from '@mui/material/ListItemText';
import Menu from '@mui/material/Menu';
import MenuItem from '@mui/material/MenuItem';
import Paper from '@mui/material/Paper';
import Tooltip from '@mui/material/Tooltip';
import Typography from '@mui/material/Typography';
import { useLocation, useNavigate } from '@tanstack/react-router';
import { useState } from 'react';

import { HEAD_HEIGHT } from './Head';
import { useRail, type RailEntry } from './railEntries';
import { PlainLink } from '../parts/Go';
import { MoreIcon } from '../parts/icons';

const WIDTH = 220;
const NARROW = 64;
const GROUP_TITLES = { organisation: 'Organisation', me: 'You', system: 'System' };
/** As many as a thumb reaches; the rest is behind "More". */
const BOTTOM_ENTRIES = 4;

/** The way to every screen: 220 px with words, icons alone below 1,000 px. */
export function Rail() {
  const groups = useRail();
  return (
    <Box
      component="nav"
      aria-label="Screens"
      sx={{
        display: { xs: 'none', sm: 'block' },
        width: { sm: NARROW, md: WIDTH },
        flex: 'none',
        position: 'sticky',
        top: HEAD_HEIGHT,
        height: `calc(100dvh - ${String(HEAD_HEIGHT)}px)`,
        overflowY: 'auto',
        borderRight: 1,
        borderColor: 'divider',
        bgcolor: 'background.paper',
        px: { sm: 1, md: 1.5 },
        py: 1.5,
      }}
    >
      {groups.map(({ place, entries }) => (
        <Box
          key={place}
          sx={{ '& + &': { mt: 1.5, pt: 1.5, borderTop: 1, borderColor: 'divider' } }}
        >
          <Typography
            variant="caption"
            sx={{
              display: { xs: 'none', md: 'block' },
              px: 1.25,
              pb: 0.5,
              color: 'text.secondary',
              fontWeight: 600,
            }}
          >
            {GROUP_TITLES[place]}
          </Typography>
          <List component="div" disablePadding>
            {entries.map((entry) => (
              <RailLink key={entry.address} entry={entry} />
            ))}
          </List>
        </Box>
      ))}
    </Box>
  );
}

function RailLink({ entry }: { entry: RailEntry }) {
  const { Icon, title, address, isHere } = entry;
  return (
    <Tooltip
      title={title}
      placement="right"
      slotProps={{ tooltip: { sx: { display: { md: 'none' } } } }}
    >
      <ListItemButton
        component={PlainLink}
        to={address}
        selected={isHere}
        aria-current={isHere ? 'page' : undefined}
        aria-label={title}
        sx={{
          borderRadius: 1,
          minHeight: 36,
          py: 0.5,
          px: 1.25,
          mb: 0.25,
          justifyContent: { sm: 'center', md: 'flex-start' },
          color: 'text.secondary',
          '&:hover': { color: 'text.primary' },
          '&.Mui-selected, &.Mui-selected:hover': {
            bgcolor: 'primary.light',
            color: 'primary.main',
          },
        }}
      >
        <ListItemIcon sx={{ color: 'inherit', minWidth: { sm: 0, md: 30 } }}>
          <Icon />
        </ListItemIcon>
        <ListItemText
          primary={title}
          sx={{ display: { xs: 'none', md: 'block' }, m: 0 }}
          slotProps={{
            primary: { variant: 'body1', noWrap: true, sx: { fontWeight: isHere ? 600 : 450 } },
          }}
        />
      </ListItemButton>
    </Tooltip>
  );
}

/** The same below 600 px, at the thumb. */
export function BottomBar() {
  const entries = useRail().flatMap((group) => group.entries);
  const navigate = useNavigate();
  const { pathname } = useLocation();
  const [anchor, setAnchor] = useState<HTMLElement | null>(null);
  const first = entries.slice(0, BOTTOM_ENTRIES);
  const rest = entries.slice(BOTTOM_ENTRIES);
  const here = first.findIndex((entry) => entry.isHere);
  return (
    <Paper
      component="nav"
      aria-label="Screens"
      elevation={0}
      sx={{
        display: { sm: 'none' },
        position: 'fixed',
        inset: 'auto 0 0 0',
        zIndex: 'appBar',
        borderTop: 1,
        borderColor: 'divider',
        borderRadius: 0,
        pb: 'env(safe-area-inset-bottom)',
      }}
    >
      <BottomNavigation key={pathname} showLabels value={here === -1 ? first.length : here}>
        {first.map(({ Icon, title, address }) => (
          <BottomNavigationAction
            key={address}
            label={title}
            icon={<Icon />}
            sx={{ minWidth: 0 }}
            onClick={() => void navigate({ to: address })}
          />
        ))}
        {rest.length > 0 && (
          <BottomNavigationAction
            label="More"
            icon={<MoreIcon />}
            sx={{ minWidth: 0 }}
            aria-haspopup="menu"
            onClick={(event) => setAnchor(event.currentTarget)}
          />
        )}
      </BottomNavigation>
      <Menu anchorEl={anchor} open={anchor !== null} onClose={() => setAnchor(null)}>
        {rest.map(({ Icon, title, address, isHere }) => (
          <MenuItem
            key={address}
            selected={isHere}
            onClick={() => {
              setAnchor(null);
              void navigate({ to: address });
            }}
          >
            <ListItemIcon>
              <Icon />
            </ListItemIcon>
            {title}
          </MenuItem>
        ))}
      </Menu>
    </Paper>
  );
}
