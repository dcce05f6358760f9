import createCache from '@emotion/cache';
import { CacheProvider } from '@emotion/react';
import CssBaseline from '@mui/material/CssBaseline';
import { ThemeProvider } from '@mui/material/styles';
import { QueryClientProvider } from '@tanstack/react-query';
import { RouterProvider } from '@tanstack/react-router';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';

import { queryClient } from './api/client';
import { NoAnswer, Refusal } from './api/refusal';
import { cspNonce } from './app/csp';
import './app/fonts.css';
import { router } from './app/router';
import { theme } from './app/theme';
import { Said } from './parts/Said';

const root = document.getElementById('root');
if (!root) throw new Error('index.html has no #root');

/** A refusal that ends a screen is told on the page: it is no fault of the page. */
function onCaughtError(error: unknown): void {
  if (!(error instanceof Refusal) && !(error instanceof NoAnswer)) console.error(error);
}

createRoot(root, { onCaughtError }).render(
  <StrictMode>
    <CacheProvider value={createCache({ key: 'tm', nonce: cspNonce })}>
      <ThemeProvider theme={theme} noSsr>
        <CssBaseline enableColorScheme />
        <QueryClientProvider client={queryClient}>
          <Said>
            <RouterProvider router={router} />
          </Said>
        </QueryClientProvider>
      </ThemeProvider>
    </CacheProvider>
  </StrictMode>,
);
