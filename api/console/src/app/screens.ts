/**
 * Every screen of the console. A screen is added by a line in the list of its place and a file
 * with its component (README.md, "Adding a screen"); routes, rail, keyboard and palette follow.
 */
import type { ComponentType } from 'react';

import type { Icon } from '../parts/icons';
import { meScreens } from '../screens/me/screens';
import { organizationScreens } from '../screens/organisation/screens';
import { systemScreens } from '../screens/system/screens';

/** Where a screen stands in the rail, and who may see it. */
export type Place = 'organisation' | 'me' | 'system';

export interface Screen {
  /** Below /console, with parameters as $name: `/o/$orgId/members`. */
  readonly path: string;
  readonly title: string;
  readonly place: Place;
  /** Loaded when it is first opened; the component is the file's default export. */
  readonly load: () => Promise<{ default: ComponentType }>;
  /** A screen without an icon is in no rail: it is reached from another screen. */
  readonly icon?: Icon;
  /** Of an organisation: only its admins are shown the way there. The API decides in any case. */
  readonly adminOnly?: boolean;
  /** `g` and then this letter lead there. */
  readonly letter?: string;
}

export const screens: readonly Screen[] = [...organizationScreens, ...meScreens, ...systemScreens];

/** The address of a screen, below /console. */
export function addressOf(screen: Screen, orgId: string | null): string {
  return screen.path.replace('$orgId', encodeURIComponent(orgId ?? ''));
}
