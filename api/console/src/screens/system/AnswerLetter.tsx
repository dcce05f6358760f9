import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogContentText from '@mui/material/DialogContentText';
import DialogTitle from '@mui/material/DialogTitle';
import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { api, type Schemas } from '../../api/client';
import { MONO } from '../../app/theme';
import { ErrorState } from '../../parts/ErrorState';

interface AnswerLetterProps {
  letter: Schemas['DeadLetter'];
  close: () => void;
  done: () => void;
}

const PATH = '/api/v1/org-billing/system/dead-letters/{letter_id}';

/** Acknowledge an event, or charge it after all. Either is done once: the API refuses a second. */
export function AnswerLetter({ letter, close, done }: AnswerLetterProps) {
  const [note, setNote] = useState('');
  const acknowledge = api.useMutation('post', `${PATH}/acknowledge`, { onSuccess: done });
  const retry = api.useMutation('post', `${PATH}/retry`, { onSuccess: done });
  const errors: unknown[] = [acknowledge.error, retry.error];
  const error = errors.find((one) => one !== null) ?? null;
  const isBusy = acknowledge.isPending || retry.isPending;
  const sent = { params: { path: { letter_id: letter.id } }, body: { note: note.trim() } };
  return (
    <Dialog open onClose={close} aria-labelledby="letter-title">
      <DialogTitle id="letter-title">Event {letter.id}</DialogTitle>
      <DialogContent>
        <DialogContentText sx={{ mb: 1 }}>
          {letter.detail ?? letter.reason}. Charging it takes the credits again from who would have
          paid; acknowledging it changes nothing.
        </DialogContentText>
        <TextField
          label="What was found, and why"
          value={note}
          onChange={(event) => setNote(event.target.value)}
          autoFocus
          required
          sx={{ my: 1 }}
        />
        <DialogContentText
          component="pre"
          variant="caption"
          tabIndex={0}
          sx={{ fontFamily: MONO, whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}
        >
          {letter.raw}
        </DialogContentText>
        {error !== null && <ErrorState error={error} />}
      </DialogContent>
      <DialogActions>
        <Button onClick={close}>Cancel</Button>
        <Button disabled={!note.trim() || isBusy} onClick={() => acknowledge.mutate(sent)}>
          Acknowledge
        </Button>
        <Button
          variant="contained"
          disabled={!note.trim() || isBusy}
          onClick={() => retry.mutate(sent)}
        >
          Charge after all
        </Button>
      </DialogActions>
    </Dialog>
  );
}
