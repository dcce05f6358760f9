import List from '@mui/material/List';
import ListItem from '@mui/material/ListItem';
import ListItemButton from '@mui/material/ListItemButton';
import ListItemIcon from '@mui/material/ListItemIcon';
import ListItemText from '@mui/material/ListItemText';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';

import type { Concern } from './attention';
import { PlainLink } from '../../../parts/Go';
import { CheckIcon, WarningIcon } from '../../../parts/icons';
import { Panel } from '../../../parts/Panel';

export function Attention({ concerns }: { concerns: readonly Concern[] }) {
  return (
    <Panel title="Needs attention">
      {concerns.length === 0 ? (
        <Stack
          direction="row"
          sx={{ gap: 1, alignItems: 'center', color: 'text.secondary', py: 1 }}
        >
          <CheckIcon color="success" />
          <Typography>Nothing needs you now.</Typography>
        </Stack>
      ) : (
        <List disablePadding sx={{ mx: -1 }}>
          {concerns.map(({ sentence, to, search }) => (
            <ListItem key={sentence} disablePadding>
              <ListItemButton
                component={PlainLink}
                to={to}
                {...(search && { search })}
                sx={{ borderRadius: 1, px: 1 }}
              >
                <ListItemIcon sx={{ minWidth: 30, color: 'warning.main' }}>
                  <WarningIcon />
                </ListItemIcon>
                <ListItemText primary={sentence} />
              </ListItemButton>
            </ListItem>
          ))}
        </List>
      )}
    </Panel>
  );
}
