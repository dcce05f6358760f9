import IconButton from '@mui/material/IconButton';
import ListItemIcon from '@mui/material/ListItemIcon';
import ListSubheader from '@mui/material/ListSubheader';
import Menu from '@mui/material/Menu';
import MenuItem from '@mui/material/MenuItem';
import Tooltip from '@mui/material/Tooltip';
import { useState } from 'react';

import { CheckIcon, ColumnsIcon } from './icons';
import { DENSITIES, type TableChoices } from './tableChoices';

interface TableMenuProps {
  label: string;
  choices: TableChoices;
  columns: readonly { id: string; name: string }[];
  /** The ids of those that are shown now. */
  shown: readonly string[];
}

const DENSITY_WORDS = { dense: 'Dense', normal: 'Normal', roomy: 'Roomy' };

/** Chooses columns and density of a table. */
export function TableMenu({ label, choices, columns, shown }: TableMenuProps) {
  const [anchor, setAnchor] = useState<HTMLElement | null>(null);
  const title = `Columns and rows of ${label}`;
  return (
    <>
      <Tooltip title={title}>
        <IconButton
          size="small"
          aria-label={title}
          aria-haspopup="menu"
          onClick={(event) => setAnchor(event.currentTarget)}
        >
          <ColumnsIcon fontSize="inherit" />
        </IconButton>
      </Tooltip>
      <Menu
        anchorEl={anchor}
        open={anchor !== null}
        onClose={() => setAnchor(null)}
        slotProps={{ list: { dense: true, 'aria-label': title } }}
      >
        <ListSubheader role="presentation">Columns</ListSubheader>
        {columns.map(({ id, name }) => (
          <Choice
            key={id}
            role="menuitemcheckbox"
            is={shown.includes(id)}
            onClick={() => choices.toggle(id, shown)}
          >
            {name}
          </Choice>
        ))}
        <MenuItem disabled={choices.chosen === null} onClick={choices.reset}>
          <ListItemIcon />
          Those that fit
        </MenuItem>
        <ListSubheader role="presentation">Rows</ListSubheader>
        {DENSITIES.map((density) => (
          <Choice
            key={density}
            role="menuitemradio"
            is={choices.density === density}
            onClick={() => choices.setDensity(density)}
          >
            {DENSITY_WORDS[density]}
          </Choice>
        ))}
      </Menu>
    </>
  );
}

interface ChoiceProps {
  role: 'menuitemcheckbox' | 'menuitemradio';
  is: boolean;
  onClick: () => void;
  children: string;
}

function Choice({ role, is, onClick, children }: ChoiceProps) {
  return (
    <MenuItem role={role} aria-checked={is} onClick={onClick}>
      <ListItemIcon>{is && <CheckIcon />}</ListItemIcon>
      {children}
    </MenuItem>
  );
}
