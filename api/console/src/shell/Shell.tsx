import Box from '@mui/material/Box';
import { useSuspenseQuery } from '@tanstack/react-query';
import { Outlet } from '@tanstack/react-router';
import { lazy, Suspense, useState } from 'react';

import { Head } from './Head';
import { BottomBar, Rail } from './Rail';
import { useShortcuts } from './shortcuts';
import { ScreenLoading } from '../parts/Loading';
import { SessionEnded } from '../session/SessionEnded';
import { SignIn } from '../session/SignIn';
import { browserSession } from '../session/session';

const Palette = lazy(() => import('./Palette'));
const Shortcuts = lazy(() => import('./ShortcutList'));

/** The frame around every screen, for somebody who is signed in. */
export function Shell() {
  const { data: session } = useSuspenseQuery(browserSession);
  if (!session.signed_in) return <SignIn session={session} />;
  return (
    <Suspense fallback={<FrameLoading />}>
      <Frame />
    </Suspense>
  );
}

function Frame() {
  const [opened, setOpened] = useState<'palette' | 'shortcuts' | null>(null);
  const close = () => setOpened(null);
  useShortcuts({ search: () => setOpened('palette'), help: () => setOpened('shortcuts') });
  return (
    <Box sx={{ display: 'flex', flexDirection: 'column', minHeight: '100dvh' }}>
      <SkipLink />
      <Head onSearch={() => setOpened('palette')} onHelp={() => setOpened('shortcuts')} />
      <Box sx={{ display: 'flex', flex: 1, minWidth: 0 }}>
        <Rail />
        <Box
          component="main"
          id="content"
          tabIndex={-1}
          sx={{
            flex: 1,
            minWidth: 0,
            outline: 'none',
            p: { xs: 1.5, sm: 3 },
            pb: { xs: 11, sm: 4 },
          }}
        >
          <Box sx={{ maxWidth: 1360, mx: 'auto' }}>
            <SessionEnded />
            <Suspense fallback={<ScreenLoading />}>
              <Outlet />
            </Suspense>
          </Box>
        </Box>
      </Box>
      <BottomBar />
      <Suspense>
        {opened === 'palette' && <Palette onClose={close} />}
        {opened === 'shortcuts' && <Shortcuts onClose={close} />}
      </Suspense>
    </Box>
  );
}

function FrameLoading() {
  return (
    <Box sx={{ p: 3, pt: 10, maxWidth: 1360, mx: 'auto' }}>
      <ScreenLoading />
    </Box>
  );
}

function SkipLink() {
  return (
    <Box
      component="a"
      href="#content"
      sx={{
        position: 'absolute',
        left: 8,
        top: -60,
        zIndex: 'tooltip',
        p: 1.5,
        borderRadius: 1,
        bgcolor: 'background.paper',
        color: 'primary.main',
        '&:focus': { top: 8 },
      }}
    >
      Skip to the content
    </Box>
  );
}
