import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import { useQuery, useQueryClient } from '@tanstack/react-query';

import { noticeSessionBack, useSessionEnded } from './ended';
import { browserSession, signInAddress } from './session';

/** Says that the session has ended. What is shown stays; nothing is sent until somebody is back. */
export function SessionEnded() {
  const ended = useSessionEnded();
  const client = useQueryClient();
  const { data: session } = useQuery(browserSession);
  if (!ended || !session) return null;
  const look = async () => {
    const now = await client.query({ ...browserSession, staleTime: 0 });
    if (!now.signed_in) return;
    noticeSessionBack();
    await client.invalidateQueries();
  };
  const address = signInAddress(session);
  return (
    <Alert
      severity="warning"
      sx={{ mb: 2 }}
      action={
        <>
          <Button color="inherit" onClick={() => void look()}>
            I am back
          </Button>
          {address && (
            <Button color="inherit" variant="outlined" href={address} target="_blank" rel="opener">
              Sign in again
            </Button>
          )}
        </>
      }
    >
      Your session has ended. What you see stays as it is.
    </Alert>
  );
}
