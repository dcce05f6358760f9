import Alert from '@mui/material/Alert';
import Box from '@mui/material/Box';
import Button from '@mui/material/Button';
import Typography from '@mui/material/Typography';
import { useQueryErrorResetBoundary } from '@tanstack/react-query';
import { useRouter, type ErrorComponentProps } from '@tanstack/react-router';

import { RefusalText } from './RefusalText';

interface ErrorStateProps {
  error: unknown;
  again?: () => void;
}

/** What stands where something could not be shown: the API's words, and a way to ask again. */
export function ErrorState({ error, again }: ErrorStateProps) {
  return (
    <Alert
      severity="error"
      variant="outlined"
      action={
        again && (
          <Button color="inherit" onClick={again}>
            Ask again
          </Button>
        )
      }
    >
      <RefusalText error={error} />
    </Alert>
  );
}

/** The same for a whole screen. */
export function ScreenError({ error, reset }: ErrorComponentProps) {
  const router = useRouter();
  const { reset: forget } = useQueryErrorResetBoundary();
  const again = () => {
    forget();
    reset();
    void router.invalidate();
  };
  return (
    <Box sx={{ maxWidth: 640, mx: 'auto', py: 6 }}>
      <Typography variant="h1" sx={{ mb: 2 }}>
        This screen could not be shown
      </Typography>
      <ErrorState error={error} again={again} />
    </Box>
  );
}
