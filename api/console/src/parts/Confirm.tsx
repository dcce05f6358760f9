import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Dialog from '@mui/material/Dialog';
import DialogActions from '@mui/material/DialogActions';
import DialogContent from '@mui/material/DialogContent';
import DialogTitle from '@mui/material/DialogTitle';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import type { ReactNode } from 'react';

import { RefusalText } from './RefusalText';
import { useSay } from './Said';

interface ConfirmProps {
  title: string;
  /** What the button says. */
  verb: string;
  act: () => Promise<unknown>;
  /** What is said when it was done. */
  said: string;
  /** What it means. */
  children: ReactNode;
  onClose: () => void;
}

/** Asks before something that ends something. */
export function Confirm({ title, verb, act, said, children, onClose }: ConfirmProps) {
  const client = useQueryClient();
  const say = useSay();
  const { mutate, isPending, error } = useMutation({
    mutationFn: act,
    onSuccess: async () => {
      onClose();
      say(said);
      await client.invalidateQueries();
    },
  });
  return (
    <Dialog open onClose={onClose} maxWidth="xs">
      <DialogTitle>{title}</DialogTitle>
      <DialogContent>
        {children}
        {error && (
          <Alert severity="error" sx={{ mt: 2 }}>
            <RefusalText error={error} />
          </Alert>
        )}
      </DialogContent>
      <DialogActions>
        <Button color="inherit" onClick={onClose} autoFocus>
          Cancel
        </Button>
        <Button variant="contained" color="error" loading={isPending} onClick={() => mutate()}>
          {verb}
        </Button>
      </DialogActions>
    </Dialog>
  );
}
