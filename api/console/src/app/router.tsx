/** One route for each screen, each in a file of its own that is loaded when it is opened. */
import {
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
} from '@tanstack/react-router';
import { lazy } from 'react';

import { parseSearch, stringifySearch } from './addresses';
import { screens, type Screen } from './screens';
import { ScreenError } from '../parts/ErrorState';
import { ScreenLoading } from '../parts/Loading';
import { AdminsOnly } from '../shell/AdminsOnly';
import { NotFound } from '../shell/NotFound';
import { Shell } from '../shell/Shell';
import { SignedOut } from '../session/SignedOut';
import { Home } from '../shell/Home';

const root = createRootRoute({ component: Outlet, notFoundComponent: NotFound });

const signedOut = createRoute({
  getParentRoute: () => root,
  path: '/signed-out',
  component: SignedOut,
});

const shell = createRoute({ getParentRoute: () => root, id: 'shell', component: Shell });

const home = createRoute({ getParentRoute: () => shell, path: '/', component: Home });

function componentOf(screen: Screen) {
  if (!screen.adminOnly) return lazyRouteComponent(screen.load);
  const Loaded = lazy(screen.load);
  return function ScreenOfAdmins() {
    return (
      <AdminsOnly>
        <Loaded />
      </AdminsOnly>
    );
  };
}

const screenRoutes = screens.map((screen) =>
  createRoute({
    getParentRoute: () => shell,
    path: screen.path,
    component: componentOf(screen),
  }),
);

export const router = createRouter({
  routeTree: root.addChildren([signedOut, shell.addChildren([home, ...screenRoutes])]),
  basepath: '/console',
  parseSearch,
  stringifySearch,
  defaultPreload: 'intent',
  defaultPendingComponent: ScreenLoading,
  defaultErrorComponent: ScreenError,
  defaultNotFoundComponent: NotFound,
  scrollRestoration: true,
});
