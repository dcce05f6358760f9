/** What stands in the rail for whom; the keyboard and the palette lead to the same places. */
import { useLocation } from '@tanstack/react-router';

import { useShownOrg } from './shownOrg';
import { addressOf, screens, type Place, type Screen } from '../app/screens';
import type { Icon } from '../parts/icons';
import { roleIn, useSession } from '../session/session';

export interface RailEntry {
  title: string;
  Icon: Icon;
  address: string;
  letter: string | undefined;
  isHere: boolean;
}

const PLACES: readonly Place[] = ['organisation', 'me', 'system'];

export function useRail(): { place: Place; entries: RailEntry[] }[] {
  const session = useSession();
  const shown = useShownOrg();
  const { pathname } = useLocation();
  const role = shown ? roleIn(session, shown.orgId) : null;

  const maySee = (screen: Screen) => {
    if (screen.place === 'system') return session.isSystemAdmin;
    if (screen.place === 'me') return true;
    return role === 'admin' || (role === 'member' && !screen.adminOnly);
  };
  const entryOf = (screen: Screen): RailEntry[] => {
    if (!screen.icon || !maySee(screen)) return [];
    const address = addressOf(screen, shown?.orgId ?? null);
    return [
      {
        title: screen.title,
        Icon: screen.icon,
        address,
        letter: screen.letter,
        isHere: isAt(pathname, address),
      },
    ];
  };
  return PLACES.map((place) => ({
    place,
    entries: screens.filter((screen) => screen.place === place).flatMap(entryOf),
  })).filter((group) => group.entries.length > 0);
}

/** A screen is also shown as "here" while one below it is open, except the first of its place. */
function isAt(pathname: string, address: string): boolean {
  const path = pathname.replace(/^\/console/, '').replace(/\/$/, '');
  const wanted = decodeURIComponent(address);
  const here = decodeURIComponent(path);
  return here === wanted || (here.startsWith(`${wanted}/`) && wanted.split('/').length > 3);
}
