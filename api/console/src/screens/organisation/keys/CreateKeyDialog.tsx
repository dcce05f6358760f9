import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Checkbox from '@mui/material/Checkbox';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import FormControlLabel from '@mui/material/FormControlLabel';
import FormGroup from '@mui/material/FormGroup';
import FormLabel from '@mui/material/FormLabel';
import TextField from '@mui/material/TextField';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { fetchClient, type Schemas } from '../../../api/client';
import { CommandLine } from '../../../parts/CommandLine';
import { FormDialog } from '../../../parts/FormDialog';

type Operation = Schemas['NewApiKey']['operations'][number];

const OPERATIONS: readonly (readonly [Operation, string])[] = [
  ['llm', 'use models on the LLM route'],
  ['reserve', 'open holds'],
  ['commit', 'charge what a hold cost'],
  ['release', 'end a hold without a charge'],
  ['charge', 'charge a known cost'],
  ['touch', 'keep a hold open'],
  ['balance', 'read balances'],
  ['lookup', 'look up requests'],
  ['any_hold', 'end holds that others opened'],
];

/** Makes a key, whose text is shown this once. */
export function CreateKeyDialog({ orgId, onClose }: { orgId: string; onClose: () => void }) {
  const [name, setName] = useState('');
  const [operations, setOperations] = useState<readonly Operation[]>(['llm']);
  const [userId, setUserId] = useState('');
  const client = useQueryClient();
  const {
    mutate,
    isPending,
    error,
    data: made,
  } = useMutation({
    mutationFn: async () => {
      const { data } = await fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/keys', {
        params: { path: { org_id: orgId } },
        body: {
          name: name.trim(),
          operations: [...operations],
          ...(userId.trim() && { user_id: userId.trim() }),
        },
      });
      return data as Schemas['ApiKeyMade'];
    },
    onSuccess: () => client.invalidateQueries(),
  });
  if (made) return <KeyShown made={made} onClose={onClose} />;
  const toggle = (operation: Operation) =>
    setOperations((before) =>
      before.includes(operation)
        ? before.filter((one) => one !== operation)
        : [...before, operation],
    );
  return (
    <FormDialog
      title="Create an API key"
      verb="Create"
      ready={name.trim() !== '' && operations.length > 0}
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
        helperText="Where it is used, such as “gateway in Frankfurt”"
      />
      <div>
        <FormLabel component="legend">What it may do</FormLabel>
        <FormGroup>
          {OPERATIONS.map(([operation, does]) => (
            <FormControlLabel
              key={operation}
              control={
                <Checkbox
                  size="small"
                  checked={operations.includes(operation)}
                  onChange={() => toggle(operation)}
                />
              }
              label={`${operation}: ${does}`}
            />
          ))}
        </FormGroup>
      </div>
      <TextField
        label="Only for user"
        value={userId}
        onChange={(event) => setUserId(event.target.value)}
        helperText="Left empty, it acts for every member"
      />
    </FormDialog>
  );
}

function KeyShown({ made, onClose }: { made: Schemas['ApiKeyMade']; onClose: () => void }) {
  return (
    <Dialog open>
      <DialogTitle>{made.api_key.name}</DialogTitle>
      <DialogContent>
        <Alert severity="warning">This is shown once. Whoever has it can do what it may.</Alert>
        <CommandLine text={made.key} label="Copy the key" />
      </DialogContent>
      <DialogActions>
        <Button variant="contained" onClick={onClose}>
          I have kept it
        </Button>
      </DialogActions>
    </Dialog>
  );
}
