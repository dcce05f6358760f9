import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogContentText from '@mui/material/DialogContentText';
import DialogTitle from '@mui/material/DialogTitle';
import TextField from '@mui/material/TextField';
import { useState, type SyntheticEvent } from 'react';

import { api, type Schemas } from '../../api/client';
import { ErrorState } from '../../parts/ErrorState';

interface SuspendProps {
  organization: Schemas['OrganizationLine'];
  close: () => void;
  done: () => void;
}

/** Stops an organisation's spending, or lets it go on. Doing it twice changes nothing. */
export function Suspend({ organization, close, done }: SuspendProps) {
  const [reason, setReason] = useState('');
  const put = api.useMutation('put', '/api/v1/org-billing/orgs/{org_id}/suspension', {
    onSuccess: done,
  });
  const suspended = organization.state !== 'suspended';
  const error: unknown = put.error;
  const send = (event: SyntheticEvent) => {
    event.preventDefault();
    put.mutate({
      params: { path: { org_id: organization.org_id } },
      body: { suspended, reason: reason.trim() },
    });
  };
  return (
    <Dialog open onClose={close} aria-labelledby="suspend-title">
      <form onSubmit={send}>
        <DialogTitle id="suspend-title">
          {suspended ? 'Suspend' : 'Resume'} {organization.org_name}
        </DialogTitle>
        <DialogContent>
          <DialogContentText sx={{ mb: 2 }}>
            {suspended
              ? 'Within three seconds nobody spends its credits by the LLM route or an API key. Running requests end normally, balances stay.'
              : 'Its members and keys spend again at once.'}
          </DialogContentText>
          <TextField
            label="Reason, for the audit log"
            value={reason}
            onChange={(event) => setReason(event.target.value)}
            autoFocus
            required
          />
          {error !== null && <ErrorState error={error} />}
        </DialogContent>
        <DialogActions>
          <Button onClick={close}>Cancel</Button>
          <Button
            type="submit"
            variant="contained"
            color={suspended ? 'error' : 'primary'}
            disabled={!reason.trim() || put.isPending}
          >
            {suspended ? 'Suspend' : 'Resume'}
          </Button>
        </DialogActions>
      </form>
    </Dialog>
  );
}
