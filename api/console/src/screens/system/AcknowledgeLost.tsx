import DialogContentText from '@mui/material/DialogContentText';
import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { api, type Schemas } from '../../api/client';
import { FormDialog } from '../../parts/FormDialog';

interface AcknowledgeLostProps {
  lost: Schemas['LostEvents'];
  /** Which events, in words. */
  said: string;
  close: () => void;
  done: () => void;
}

/** Notes that a loss is known, and why. It is done once: the API refuses a second. */
export function AcknowledgeLost({ lost, said, close, done }: AcknowledgeLostProps) {
  const [note, setNote] = useState('');
  const { mutate, isPending, error } = api.useMutation(
    'post',
    '/api/v1/org-billing/system/lost-events/{shard}/{epoch}/{seq_first}/acknowledge',
    { onSuccess: done },
  );
  const { shard, epoch, seq_first } = lost;
  return (
    <FormDialog
      title={`Events ${said} of shard ${shard}`}
      verb="Acknowledge"
      ready={note.trim() !== ''}
      pending={isPending}
      error={error}
      onSubmit={() =>
        mutate({ params: { path: { shard, epoch, seq_first } }, body: { note: note.trim() } })
      }
      onClose={close}
    >
      <DialogContentText>
        Redis has lost {lost.events.toLocaleString()} events before they were booked: what they
        would have charged is not known and is charged to nobody. From now on this loss is shown,
        and is no alarm. The next one is.
      </DialogContentText>
      <TextField
        label="What was found, and why"
        value={note}
        onChange={(event) => setNote(event.target.value)}
        autoFocus
        required
      />
    </FormDialog>
  );
}
