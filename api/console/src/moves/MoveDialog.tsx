import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import Stack from '@mui/material/Stack';
import type { ReactNode } from 'react';

import type { Move } from './useMove';
import { RefusalText } from '../parts/RefusalText';

interface MoveDialogProps<Body, Answer> {
  title: string;
  move: Move<Body, Answer>;
  /** What the button says, such as "Transfer". */
  verb: string;
  /** What would be sent; null while the fields do not make sense. */
  body: Body | null;
  /** What was sent, in a sentence, for while nobody knows what became of it. */
  describe: (body: Body) => string;
  /** What the API has answered. */
  done: (answer: Answer) => ReactNode;
  /** Of an answer that is shown once: only this button closes it, and no key. */
  shownOnce?: string | undefined;
  children: ReactNode;
  onClose: () => void;
}

/** Closing what is in doubt cancels nothing: it waits for the next time the dialog is opened. */
const CLOSE_WORDS = { editing: 'Cancel', sending: 'Cancel', doubt: 'Later', done: 'Close' };

/** The frame of every dialog that moves credits or makes something: fields, and what became of it. */
export function MoveDialog<Body, Answer>(props: MoveDialogProps<Body, Answer>) {
  const { title, move, verb, body, describe, done, shownOnce, children, onClose } = props;
  const { state } = move;
  const sending = state.is === 'sending';
  const close = () => {
    if (sending) return;
    move.close();
    onClose();
  };
  const submit = (event: React.SubmitEvent) => {
    event.preventDefault();
    if (state.is === 'doubt') move.send(state.body);
    else if (body !== null) move.send(body);
  };
  return (
    <Dialog
      open
      onClose={() => (state.is !== 'done' || shownOnce === undefined) && close()}
      slotProps={{ paper: { component: 'form', onSubmit: submit, noValidate: true } as object }}
    >
      <DialogTitle>{title}</DialogTitle>
      <DialogContent>
        <Stack sx={{ gap: 2, pt: 1 }}>
          {state.is === 'done' && (
            <Alert severity={shownOnce === undefined ? 'success' : 'warning'}>
              {done(state.answer)}
            </Alert>
          )}
          {state.is === 'doubt' && (
            <Alert severity="warning">
              <strong>In doubt.</strong> {describe(state.body)} It was sent, and no answer says
              whether it took effect. Ask again: it takes effect once, however often it is asked.
              {state.reason !== null && <RefusalText error={state.reason} />}
            </Alert>
          )}
          {state.is === 'editing' && state.refusal !== null && (
            <Alert severity="error">
              <RefusalText error={state.refusal} />
            </Alert>
          )}
          {(state.is === 'editing' || sending) && children}
        </Stack>
      </DialogContent>
      <DialogActions>
        <Button onClick={close} disabled={sending} color="inherit">
          {(state.is === 'done' && shownOnce) || CLOSE_WORDS[state.is]}
        </Button>
        {state.is !== 'done' && (
          <Button
            type="submit"
            variant="contained"
            loading={sending}
            disabled={state.is === 'editing' && body === null}
          >
            {state.is === 'doubt' ? 'Ask again' : verb}
          </Button>
        )}
      </DialogActions>
    </Dialog>
  );
}
