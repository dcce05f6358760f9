import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import TextField from '@mui/material/TextField';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { fetchClient, type Schemas } from '../../../api/client';
import { CommandLine } from '../../../parts/CommandLine';
import { ChoiceField } from '../../../parts/FilterField';
import { FormDialog } from '../../../parts/FormDialog';

type Kind = Schemas['NewReceiver']['kind'];

const KINDS = [
  ['webhook', 'webhook'],
  ['slack', 'Slack'],
  ['email', 'e-mail'],
] as const;
const PERCENTS = [80, 95] as const;

/** Adds a place that is told; the secret of a webhook is shown this once. */
export function CreateReceiverDialog({ orgId, onClose }: { orgId: string; onClose: () => void }) {
  const [name, setName] = useState('');
  const [kind, setKind] = useState('webhook');
  const [url, setUrl] = useState('');
  const client = useQueryClient();
  const {
    mutate,
    isPending,
    error,
    data: made,
  } = useMutation({
    mutationFn: async () => {
      const { data } = await fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/receivers', {
        params: { path: { org_id: orgId } },
        body: {
          name: name.trim(),
          kind: kind as Kind,
          url: url.trim(),
          types: ['*'],
          percents: [...PERCENTS],
        },
      });
      return data as Schemas['ReceiverMade'];
    },
    onSuccess: () => client.invalidateQueries(),
  });
  if (made) {
    return (
      <Dialog open>
        <DialogTitle>{made.receiver.name}</DialogTitle>
        <DialogContent>
          {made.secret === null ? (
            'It is told from now on.'
          ) : (
            <>
              <Alert severity="warning">
                This secret is shown once: notices are signed with it.
              </Alert>
              <CommandLine text={made.secret} label="Copy the secret" />
            </>
          )}
        </DialogContent>
        <DialogActions>
          <Button variant="contained" onClick={onClose}>
            Done
          </Button>
        </DialogActions>
      </Dialog>
    );
  }
  return (
    <FormDialog
      title="Add a receiver"
      verb="Add"
      ready={name.trim() !== '' && url.trim() !== ''}
      pending={isPending}
      error={error}
      onSubmit={() => mutate()}
      onClose={onClose}
    >
      <TextField
        autoFocus
        label="Name"
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      <ChoiceField label="Kind" value={kind} onChange={setKind} options={KINDS} />
      <TextField
        label="Address"
        value={url}
        onChange={(event) => setUrl(event.target.value)}
        helperText={kind === 'email' ? 'mailto:somebody@example.com' : 'https://…'}
      />
    </FormDialog>
  );
}
