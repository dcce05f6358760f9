import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { fetchClient, type Schemas } from '../../../api/client';
import { MoveDialog } from '../../../moves/MoveDialog';
import { useMove } from '../../../moves/useMove';
import { CommandLine } from '../../../parts/CommandLine';
import { ChoiceField } from '../../../parts/FilterField';

type Body = Schemas['NewReceiver'];
type Kind = Body['kind'];

const KINDS = [
  ['webhook', 'webhook'],
  ['slack', 'Slack'],
  ['email', 'e-mail'],
] as const;
const PERCENTS = [80, 95] as const;

async function create(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/receivers', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['ReceiverMade'];
}

/** Adds a place that is told; the secret of a webhook is shown this once. */
export function CreateReceiverDialog({ orgId, onClose }: { orgId: string; onClose: () => void }) {
  const [name, setName] = useState('');
  const [kind, setKind] = useState('webhook');
  const [url, setUrl] = useState('');
  const move = useMove<Body, Schemas['ReceiverMade']>(`${orgId}/receiver`, (body, key) =>
    create(orgId, body, key),
  );
  const hasSecret = move.state.is === 'done' && move.state.answer.secret !== null;
  return (
    <MoveDialog
      title="Add a receiver"
      verb="Add"
      move={move}
      body={
        name.trim() !== '' && url.trim() !== ''
          ? {
              name: name.trim(),
              kind: kind as Kind,
              url: url.trim(),
              types: ['*'],
              percents: [...PERCENTS],
            }
          : null
      }
      describe={(body) => `A receiver named “${body.name}”.`}
      done={({ receiver, secret }) =>
        secret === null ? (
          `“${receiver.name}” is told from now on.`
        ) : (
          <>
            “{receiver.name}” is told from now on. This secret is shown once: notices are signed
            with it.
            <CommandLine text={secret} label="Copy the secret" />
          </>
        )
      }
      shownOnce={hasSecret ? 'I have kept it' : undefined}
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
    </MoveDialog>
  );
}
