import Button from '@mui/material/Button';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';

interface PagerProps {
  said: string;
  back: (() => void) | null;
  next: (() => void) | null;
}

/** Which rows are shown, and the way to those before and after. */
export function Pager({ said, back, next }: PagerProps) {
  return (
    <Stack
      direction="row"
      component="nav"
      aria-label="Pages"
      sx={{ alignItems: 'center', justifyContent: 'flex-end', gap: 1, p: 1 }}
    >
      <Typography variant="body2" sx={{ color: 'text.secondary', mr: 1 }} role="status">
        {said}
      </Typography>
      <Button disabled={!back} onClick={() => back?.()}>
        Back
      </Button>
      <Button disabled={!next} onClick={() => next?.()}>
        Next
      </Button>
    </Stack>
  );
}
