import ButtonBase from '@mui/material/ButtonBase';
import Popover from '@mui/material/Popover';
import Typography from '@mui/material/Typography';
import { lazy, Suspense, useState } from 'react';

import { useShownOrg } from './shownOrg';
import { DownIcon } from '../parts/icons';
import { Loading } from '../parts/Loading';

const OrganizationChoice = lazy(() => import('./OrganizationChoice'));

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
        <Suspense fallback={<Loading />}>
          <OrganizationChoice onChosen={() => setAnchor(null)} />
        </Suspense>
      </Popover>
    </>
  );
}
