import AppBar from '@mui/material/AppBar';
import Box from '@mui/material/Box';
import ButtonBase from '@mui/material/ButtonBase';
import IconButton from '@mui/material/IconButton';
import Toolbar from '@mui/material/Toolbar';
import Tooltip from '@mui/material/Tooltip';
import Typography from '@mui/material/Typography';

import { LiveDot } from './LiveDot';
import { OrganizationSwitcher } from './OrganizationSwitcher';
import { SchemeSwitch } from './SchemeSwitch';
import { paletteKeys } from './shortcuts';
import { UserMenu } from './UserMenu';
import { SearchIcon } from '../parts/icons';
import { Logo } from '../parts/Logo';

export const HEAD_HEIGHT = 56;

interface HeadProps {
  onSearch: () => void;
  onHelp: () => void;
}

export function Head({ onSearch, onHelp }: HeadProps) {
  return (
    <AppBar
      position="sticky"
      elevation={0}
      sx={{
        bgcolor: 'background.paper',
        color: 'text.primary',
        borderBottom: 1,
        borderColor: 'divider',
        backgroundImage: 'none',
      }}
    >
      <Toolbar
        disableGutters
        sx={{
          minHeight: { xs: HEAD_HEIGHT, sm: HEAD_HEIGHT },
          px: { xs: 1, sm: 2 },
          gap: { xs: 0.5, sm: 1 },
        }}
      >
        <Box sx={{ display: { xs: 'none', md: 'block' }, width: 204, flex: 'none' }}>
          <Logo />
        </Box>
        <Box sx={{ display: { xs: 'none', sm: 'block', md: 'none' }, width: 48, flex: 'none' }}>
          <Logo small />
        </Box>
        <OrganizationSwitcher />
        <Box sx={{ flex: 1 }} />
        <SearchButton onClick={onSearch} />
        <LiveDot />
        <SchemeSwitch />
        <UserMenu onHelp={onHelp} />
      </Toolbar>
    </AppBar>
  );
}

function SearchButton({ onClick }: { onClick: () => void }) {
  return (
    <>
      <ButtonBase
        onClick={onClick}
        aria-keyshortcuts="Control+K Meta+K"
        sx={{
          display: { xs: 'none', md: 'flex' },
          justifyContent: 'flex-start',
          gap: 1,
          width: 240,
          height: 34,
          px: 1.25,
          borderRadius: 1,
          border: 1,
          borderColor: 'divider',
          bgcolor: 'background.default',
          color: 'text.secondary',
          '&:hover, &:focus-visible': { borderColor: 'primary.main' },
        }}
      >
        <SearchIcon />
        <Typography variant="body2" component="span" sx={{ flex: 1, textAlign: 'left' }}>
          Search or go to…
        </Typography>
        <Typography variant="caption" component="kbd" sx={{ fontFamily: 'inherit' }}>
          {paletteKeys}
        </Typography>
      </ButtonBase>
      <Tooltip title={`Search (${paletteKeys})`}>
        <IconButton onClick={onClick} aria-label="Search" sx={{ display: { md: 'none' } }}>
          <SearchIcon />
        </IconButton>
      </Tooltip>
    </>
  );
}
