import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';

import { Plain } from './Plain';
import { signInAddress, type BrowserSession } from './session';

/** What somebody sees who is not signed in. */
export function SignIn({ session }: { session: BrowserSession }) {
  const address = signInAddress(session);
  return (
    <Plain
      title="Sign in"
      about="Credits of your organisation: how much is left, who spends it, on what."
    >
      {address ? (
        <Button href={address} variant="contained" size="large" autoFocus fullWidth>
          {session.mode === 'dev' ? 'Choose who you are' : 'Sign in'}
        </Button>
      ) : (
        <Alert severity="warning">{session.problem ?? 'Signing in is not set up here.'}</Alert>
      )}
    </Plain>
  );
}
