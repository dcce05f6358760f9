import { GoButton } from '../parts/Go';
import { Plain } from './Plain';

export function SignedOut() {
  return (
    <Plain title="You are signed out" about="Close this window on a device that is not yours.">
      <GoButton to="/" variant="contained" size="large" fullWidth>
        Sign in again
      </GoButton>
    </Plain>
  );
}
