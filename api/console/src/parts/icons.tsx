/** The icons: strokes on a grid of 24, drawn here so that no package of thousands is needed. */
import SvgIcon, { type SvgIconProps } from '@mui/material/SvgIcon';
import type { ComponentType } from 'react';

export type Icon = ComponentType<SvgIconProps>;

function drawn(path: string): Icon {
  return function DrawnIcon(props: SvgIconProps) {
    return (
      <SvgIcon fontSize="small" {...props}>
        <path
          d={path}
          fill="none"
          stroke="currentColor"
          strokeWidth={1.7}
          strokeLinecap="round"
          strokeLinejoin="round"
        />
      </SvgIcon>
    );
  };
}

export const OverviewIcon = drawn('M4 13h6V4H4zM14 20h6v-9h-6zM4 20h6v-3.5H4zM14 7.5h6V4h-6z');
export const MembersIcon = drawn(
  'M15.5 20v-1.5a4 4 0 0 0-4-4h-4a4 4 0 0 0-4 4V20M9.5 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7M20.5 20v-1.5a4 4 0 0 0-3-3.87M15.5 4.13a3.5 3.5 0 0 1 0 6.74',
);
export const UsageIcon = drawn('M4 20h16M7 20v-6M12 20V5M17 20v-9');
export const RequestsIcon = drawn('M4 6h16M4 12h16M4 18h10');
export const HoldsIcon = drawn('M12 7v5l3 2M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18');
export const KeysIcon = drawn(
  'M14.5 13a4.5 4.5 0 1 0-4.24-3L4 16.26V20h3.74v-2.5h2.5V15L11.5 13.74A4.48 4.48 0 0 0 14.5 13M15.5 7.5h.01',
);
export const WebhooksIcon = drawn('M21 4 10.5 14.5M21 4l-6.5 17-4-6.5L4 10.5z');
export const HistoryIcon = drawn('M6 3h9l4 4v14H6zM14.5 3v4.5H19M9.5 12.5h6M9.5 16.5h6');
export const AuditIcon = drawn(
  'M12 3l7.5 3v5.5c0 4.5-3 8-7.5 9.5-4.5-1.5-7.5-5-7.5-9.5V6zM9 12l2.2 2.2L15.2 10',
);
export const SettingsIcon = drawn(
  'M4 7h9M17 7h3M4 17h3M11 17h9M15 9.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5M9 19.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5',
);
export const PersonIcon = drawn(
  'M5 20v-1a5 5 0 0 1 5-5h4a5 5 0 0 1 5 5v1M12 11a3.75 3.75 0 1 0 0-7.5 3.75 3.75 0 0 0 0 7.5',
);
export const OrganizationIcon = drawn(
  'M4 20V6l8-3v17M12 9h8v11M3 20h18M8 8.5v.01M8 12v.01M8 15.5v.01M16 12.5v.01M16 16v.01',
);
export const BooksIcon = drawn(
  'M5 4.5A1.5 1.5 0 0 1 6.5 3H19v18H6.5A1.5 1.5 0 0 1 5 19.5zM5 18h14M9 7.5h6',
);
export const PricesIcon = drawn('M12.5 3H20v7.5l-9.5 9.5L3 12.5zM16 7.5h.01');
export const PlansIcon = drawn('M12 3l9 5-9 5-9-5zM3 12.5l9 5 9-5M3 17l9 5 9-5');
export const UpstreamsIcon = drawn('M4 5h16v5H4zM4 14h16v5H4zM7.5 7.5h.01M7.5 16.5h.01');
export const SearchIcon = drawn('M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13M20 20l-4.7-4.7');
export const SunIcon = drawn(
  'M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8M12 2.5v2M12 19.5v2M4.6 4.6 6 6M18 18l1.4 1.4M2.5 12h2M19.5 12h2M4.6 19.4 6 18M18 6l1.4-1.4',
);
export const MoonIcon = drawn('M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5');
export const TransferIcon = drawn('M4 8h15M15 4l4 4-4 4M20 16H5M9 12l-4 4 4 4');
export const PlusIcon = drawn('M12 5v14M5 12h14');
export const MinusIcon = drawn('M5 12h14');
export const CloseIcon = drawn('M6 6l12 12M18 6 6 18');
export const CopyIcon = drawn('M9 9h11v11H9zM5 15H4V4h11v1');
export const DownloadIcon = drawn('M12 4v11M7.5 11l4.5 4.5 4.5-4.5M4.5 20h15');
export const BackIcon = drawn('M15 5l-7 7 7 7');
export const ForwardIcon = drawn('M9 5l7 7-7 7');
export const DownIcon = drawn('M6 9.5l6 6 6-6');
export const MoreIcon = drawn('M5.5 12h.01M12 12h.01M18.5 12h.01');
export const WarningIcon = drawn('M12 4 2.5 20h19zM12 10v4.5M12 17.3v.01');
export const CheckIcon = drawn('M5 12.5l4.5 4.5L19.5 7');
export const ColumnsIcon = drawn('M4 5h16v14H4zM9.5 5v14M14.5 5v14');
export const RefreshIcon = drawn(
  'M20 5v5h-5M4 19v-5h5M19 10a7.5 7.5 0 0 0-13.5-2.5M5 14a7.5 7.5 0 0 0 13.5 2.5',
);
