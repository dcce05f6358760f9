/** The screens of the person who is signed in. */
import type { Screen } from '../../app/screens';
import { PersonIcon } from '../../parts/icons';

const place = 'me';

export const meScreens: readonly Screen[] = [
  {
    path: '/me',
    title: 'My credits',
    place,
    icon: PersonIcon,
    letter: 'i',
    load: () => import('./Balance'),
  },
];
