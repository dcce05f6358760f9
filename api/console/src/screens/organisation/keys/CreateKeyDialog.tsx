import Checkbox from '@mui/material/Checkbox';
import FormControlLabel from '@mui/material/FormControlLabel';
import FormGroup from '@mui/material/FormGroup';
import FormLabel from '@mui/material/FormLabel';
import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { fetchClient, type Schemas } from '../../../api/client';
import { MoveDialog } from '../../../moves/MoveDialog';
import { useMove } from '../../../moves/useMove';
import { CommandLine } from '../../../parts/CommandLine';

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

type Body = Schemas['NewApiKey'];

async function create(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/keys', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['ApiKeyMade'];
}

/** Makes a key, whose text is shown this once. */
export function CreateKeyDialog({ orgId, onClose }: { orgId: string; onClose: () => void }) {
  const [name, setName] = useState('');
  const [operations, setOperations] = useState<readonly Operation[]>(['llm']);
  const [userId, setUserId] = useState('');
  const move = useMove<Body, Schemas['ApiKeyMade']>(`${orgId}/key`, (body, key) =>
    create(orgId, body, key),
  );
  const toggle = (operation: Operation) =>
    setOperations((before) =>
      before.includes(operation)
        ? before.filter((one) => one !== operation)
        : [...before, operation],
    );
  const isReady = name.trim() !== '' && operations.length > 0;
  return (
    <MoveDialog
      title="Create an API key"
      verb="Create"
      move={move}
      body={
        isReady
          ? {
              name: name.trim(),
              operations: [...operations],
              ...(userId.trim() && { user_id: userId.trim() }),
            }
          : null
      }
      describe={(body) => `A key named “${body.name}”.`}
      done={(made) => (
        <>
          The key “{made.api_key.name}” is shown this once. Whoever has it can do what it may.
          <CommandLine text={made.key} label="Copy the key" />
        </>
      )}
      shownOnce="I have kept it"
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
    </MoveDialog>
  );
}
