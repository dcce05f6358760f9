import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import TextField from '@mui/material/TextField';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { CHOICES, EVERYTHING, groupsOf, typesOf, type Group } from './types';
import { fetchClient, type Schemas } from '../../../api/client';
import { MoveDialog } from '../../../moves/MoveDialog';
import { useMove } from '../../../moves/useMove';
import { Choices } from '../../../parts/Choices';
import { CommandLine } from '../../../parts/CommandLine';
import { ChoiceField } from '../../../parts/FilterField';
import { FormDialog } from '../../../parts/FormDialog';
import { useSay } from '../../../parts/Said';

type Body = Schemas['NewReceiver'];
type Percent = Body['percents'][number];

const KINDS = [
  ['webhook', 'webhook'],
  ['slack', 'Slack'],
  ['email', 'e-mail'],
] as const;
const PERCENTS: readonly (readonly [Percent, string])[] = (
  [50, 75, 80, 90, 95, 99] as const satisfies readonly Percent[]
).map((one) => [one, `${one} %`]);
const KEPT = 'I have kept it';
const LOW: readonly Group[] = ['pool', 'allocation'];

interface Told {
  name: string;
  groups: readonly Group[];
  percents: readonly Percent[];
}

function isComplete({ name, groups, percents }: Told): boolean {
  return name.trim() !== '' && groups.length > 0 && percents.length > 0;
}

/** Of what a receiver hears. */
function ToldFields({ told, change }: { told: Told; change: (told: Told) => void }) {
  return (
    <>
      <Choices
        legend="It hears of"
        options={CHOICES}
        chosen={told.groups}
        onChange={(groups) => change({ ...told, groups })}
      />
      {LOW.some((group) => told.groups.includes(group)) && (
        <Choices
          legend="Low is said when so much is used"
          options={PERCENTS}
          chosen={told.percents}
          onChange={(percents) => change({ ...told, percents })}
        />
      )}
    </>
  );
}

async function create(orgId: string, body: Body, key: string) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/receivers', {
    params: { path: { org_id: orgId }, header: { 'Idempotency-Key': key } },
    body,
  });
  return data as Schemas['ReceiverMade'];
}

/** Adds a place that is told; the secret of a webhook is shown this once. */
export function CreateReceiverDialog({ orgId, onClose }: { orgId: string; onClose: () => void }) {
  const [told, setTold] = useState<Told>({
    name: '',
    groups: groupsOf([EVERYTHING]),
    percents: [80, 95],
  });
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
        isComplete(told) && url.trim() !== ''
          ? {
              name: told.name.trim(),
              kind: kind as Body['kind'],
              url: url.trim(),
              types: typesOf(told.groups, []),
              percents: [...told.percents],
            }
          : null
      }
      describe={(body) => `A receiver named “${body.name}”.`}
      done={({ receiver, secret }) =>
        secret === null ? (
          `“${receiver.name}” is told from now on.`
        ) : (
          <>
            “{receiver.name}” is told from now on. <Secret text={secret} />
          </>
        )
      }
      shownOnce={hasSecret ? KEPT : undefined}
      onClose={onClose}
    >
      <TextField
        autoFocus
        label="Name"
        value={told.name}
        onChange={(event) => setTold({ ...told, name: event.target.value })}
      />
      <ChoiceField label="Kind" value={kind} onChange={setKind} options={KINDS} />
      <TextField
        label="Address"
        value={url}
        onChange={(event) => setUrl(event.target.value)}
        helperText={kind === 'email' ? 'mailto:somebody@example.com' : 'https://…'}
      />
      <ToldFields told={told} change={setTold} />
    </MoveDialog>
  );
}

function Secret({ text }: { text: string }) {
  return (
    <>
      This secret is shown once: notices are signed with it.
      <CommandLine text={text} label="Copy the secret" />
    </>
  );
}

interface ReceiverDialogProps {
  orgId: string;
  receiver: Schemas['ReceiverView'];
  onClose: () => void;
}

/** Changes the name of a receiver and what it hears of. Its address stays: that is another one. */
export function ChangeReceiverDialog({ orgId, receiver, onClose }: ReceiverDialogProps) {
  const [told, setTold] = useState<Told>({
    name: receiver.name,
    groups: groupsOf(receiver.types),
    percents: receiver.percents as Percent[],
  });
  const client = useQueryClient();
  const say = useSay();
  const { mutate, isPending, error } = useMutation({
    mutationFn: () =>
      fetchClient.PATCH('/api/v1/org-billing/orgs/{org_id}/receivers/{receiver_id}', {
        params: { path: { org_id: orgId, receiver_id: receiver.receiver_id } },
        body: {
          name: told.name.trim(),
          types: typesOf(told.groups, receiver.types),
          percents: [...told.percents],
        },
      }),
    onSuccess: async () => {
      onClose();
      say('Saved.');
      await client.invalidateQueries();
    },
  });
  return (
    <FormDialog
      title={`Change “${receiver.name}”`}
      verb="Save"
      ready={isComplete(told)}
      pending={isPending}
      error={error}
      onSubmit={() => mutate()}
      onClose={onClose}
    >
      <TextField
        autoFocus
        label="Name"
        value={told.name}
        onChange={(event) => setTold({ ...told, name: event.target.value })}
      />
      <ToldFields told={told} change={setTold} />
    </FormDialog>
  );
}

/**
 * Gives a receiver a new secret, which is shown this once. It is not asked again by itself where the
 * answer is lost: the secret that was lost would take the place of the one of before.
 */
export function RotateDialog({ orgId, receiver, onClose }: ReceiverDialogProps) {
  const client = useQueryClient();
  const { mutate, isPending, error, data } = useMutation({
    mutationFn: () =>
      fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/receivers/{receiver_id}/secret', {
        params: { path: { org_id: orgId, receiver_id: receiver.receiver_id } },
      }),
    onSuccess: () => client.invalidateQueries(),
  });
  const secret = data?.data?.secret;
  if (secret) {
    return (
      <Dialog open>
        <DialogTitle>{receiver.name}</DialogTitle>
        <DialogContent>
          <Alert severity="warning">
            <Secret text={secret} />
          </Alert>
        </DialogContent>
        <DialogActions>
          <Button variant="contained" onClick={onClose}>
            {KEPT}
          </Button>
        </DialogActions>
      </Dialog>
    );
  }
  return (
    <FormDialog
      title={`A new secret for “${receiver.name}”?`}
      verb="Rotate"
      ready
      pending={isPending}
      error={error}
      onSubmit={() => mutate()}
      onClose={onClose}
    >
      For a day notices are signed with both, the new one and that of before; after that with the
      new one alone. Whoever rotates twice within a day ends the first of the three at once.
    </FormDialog>
  );
}
