import IconButton from '@mui/material/IconButton';
import { useColorScheme } from '@mui/material/styles';
import Tooltip from '@mui/material/Tooltip';

import { MoonIcon, SunIcon } from '../parts/icons';

/** Between light and dark; until it is used, the device decides. */
export function SchemeSwitch() {
  const { colorScheme, setMode } = useColorScheme();
  const next = colorScheme === 'dark' ? 'light' : 'dark';
  return (
    <Tooltip title={`Show it ${next}`}>
      <IconButton aria-label={`Show it ${next}`} onClick={() => setMode(next)}>
        {next === 'dark' ? <MoonIcon /> : <SunIcon />}
      </IconButton>
    </Tooltip>
  );
}
