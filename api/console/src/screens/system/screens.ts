/** The screens of system admins. */
import type { Screen } from '../../app/screens';
import {
  AuditIcon,
  BooksIcon,
  OrganizationIcon,
  OverviewIcon,
  PlansIcon,
  PricesIcon,
  UpstreamsIcon,
} from '../../parts/icons';

const place = 'system';

export const systemScreens: readonly Screen[] = [
  {
    path: '/system',
    title: 'System',
    place,
    icon: OverviewIcon,
    letter: 's',
    load: () => import('./Overview'),
  },
  {
    path: '/system/organisations',
    title: 'Organisations',
    place,
    icon: OrganizationIcon,
    load: () => import('./Organizations'),
  },
  {
    path: '/system/books',
    title: 'Books',
    place,
    icon: BooksIcon,
    letter: 'b',
    load: () => import('./Books'),
  },
  {
    path: '/system/prices',
    title: 'Prices',
    place,
    icon: PricesIcon,
    letter: 'p',
    load: () => import('./Prices'),
  },
  {
    path: '/system/plans',
    title: 'Plans',
    place,
    icon: PlansIcon,
    load: () => import('./Plans'),
  },
  {
    path: '/system/audit',
    title: 'Audit log',
    place,
    icon: AuditIcon,
    load: () => import('./Audit'),
  },
  {
    path: '/system/upstreams',
    title: 'Upstreams',
    place,
    icon: UpstreamsIcon,
    load: () => import('./Upstreams'),
  },
];
