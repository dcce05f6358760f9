import Box from '@mui/material/Box';
import Skeleton from '@mui/material/Skeleton';
import Stack from '@mui/material/Stack';
import { visuallyHidden } from '@mui/utils';

/** What stands where a screen will be: its title and two panels, in outline. */
export function ScreenLoading() {
  return (
    <Stack sx={{ gap: 2 }} role="status">
      <Box component="span" sx={visuallyHidden}>
        Loading
      </Box>
      <Skeleton variant="rounded" width={180} height={28} />
      <Skeleton variant="rounded" height={132} />
      <Skeleton variant="rounded" height={300} />
    </Stack>
  );
}

/** What stands where a panel's content will be. */
export function Loading({ height = 120 }: { height?: number }) {
  return (
    <Box role="status">
      <Box component="span" sx={visuallyHidden}>
        Loading
      </Box>
      <Skeleton variant="rounded" height={height} />
    </Box>
  );
}
