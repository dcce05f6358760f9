import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { fetchClient, type Schemas } from '../../../api/client';
import { MoveDialog } from '../../../moves/MoveDialog';
import { useMove } from '../../../moves/useMove';
import { Choices } from '../../../parts/Choices';
import { CommandLine } from '../../../parts/CommandLine';

type Body = Schemas['NewApiKey'];
type Operation = Body['operations'][number];

const OPERATIONS: readonly (readonly [Operation, string])[] = [
  ['llm', 'llm: use models on the LLM route'],
  ['balance', 'balance: read balances'],
  ['reserve', 'reserve: open holds'],
  ['commit', 'commit: charge what a hold cost'],
  ['release', 'release: end a hold without a charge'],
  ['charge', 'charge: charge a known cost'],
  ['touch', 'touch: keep a hold open'],
  ['lookup', 'lookup: look up requests'],
  ['any_hold', 'any_hold: end holds that others opened'],
];
/** What the API gives a member who is no admin. */
const OWN_OPERATIONS = OPERATIONS.slice(0, 2);

async function create(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/keys', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['ApiKeyMade'];
}

interface CreateKeyDialogProps {
  orgId: string;
  /** Of a member, for themselves. */
  own: boolean;
  onClose: () => void;
}

/** Makes a key, whose text is shown this once. */
export function CreateKeyDialog({ orgId, own, onClose }: CreateKeyDialogProps) {
  const [name, setName] = useState('');
  const [operations, setOperations] = useState<readonly Operation[]>(['llm']);
  const [userId, setUserId] = useState('');
  const move = useMove<Body, Schemas['ApiKeyMade']>(`${orgId}/key`, (body, key) =>
    create(orgId, body, key),
  );
  const isReady = name.trim() !== '' && operations.length > 0;
  return (
    <MoveDialog
      title={own ? 'Create a key of your own' : 'Create an API key'}
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
        helperText={`Where it is used, such as “${own ? 'my laptop' : 'gateway in Frankfurt'}”`}
      />
      <Choices
        legend="What it may do"
        options={own ? OWN_OPERATIONS : OPERATIONS}
        chosen={operations}
        onChange={setOperations}
      />
      {!own && (
        <TextField
          label="Only for user"
          value={userId}
          onChange={(event) => setUserId(event.target.value)}
          helperText="Left empty, it acts for every member"
        />
      )}
    </MoveDialog>
  );
}
