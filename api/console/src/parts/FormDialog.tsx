import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import Stack from '@mui/material/Stack';
import type { ReactNode } from 'react';

import { RefusalText } from './RefusalText';

interface FormDialogProps {
  title: string;
  verb: string;
  /** Whether the fields make sense. */
  ready: boolean;
  pending: boolean;
  error: unknown;
  onSubmit: () => void;
  onClose: () => void;
  children: ReactNode;
}

/** A dialog with fields that moves no credits. */
export function FormDialog(props: FormDialogProps) {
  const { title, verb, ready, pending, error, onSubmit, onClose, children } = props;
  const submit = (event: React.SubmitEvent) => {
    event.preventDefault();
    if (ready && !pending) onSubmit();
  };
  return (
    <Dialog
      open
      onClose={onClose}
      slotProps={{ paper: { component: 'form', onSubmit: submit, noValidate: true } as object }}
    >
      <DialogTitle>{title}</DialogTitle>
      <DialogContent>
        <Stack sx={{ gap: 2, pt: 1 }}>
          {error !== null && error !== undefined && (
            <Alert severity="error">
              <RefusalText error={error} />
            </Alert>
          )}
          {children}
        </Stack>
      </DialogContent>
      <DialogActions>
        <Button color="inherit" onClick={onClose}>
          Cancel
        </Button>
        <Button type="submit" variant="contained" disabled={!ready} loading={pending}>
          {verb}
        </Button>
      </DialogActions>
    </Dialog>
  );
}
