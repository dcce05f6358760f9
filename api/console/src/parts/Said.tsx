import Alert from '@mui/material/Alert';
import Snackbar from '@mui/material/Snackbar';
import { createContext, useCallback, useContext, useState, type ReactNode } from 'react';

type Say = (sentence: string, severity?: 'success' | 'error') => void;

const SayContext = createContext<Say>(() => undefined);
const SHOWN_MS = 6000;

/** Says in a sentence that something was done, such as "Key revoked", or was refused. */
export const useSay = () => useContext(SayContext);

export function Said({ children }: { children: ReactNode }) {
  const [said, setSaid] = useState<{ sentence: string; severity: 'success' | 'error' } | null>(
    null,
  );
  const say = useCallback<Say>(
    (sentence, severity = 'success') => setSaid({ sentence, severity }),
    [],
  );
  const close = () => setSaid(null);
  return (
    <SayContext value={say}>
      {children}
      <Snackbar
        key={said?.sentence}
        open={said !== null}
        autoHideDuration={SHOWN_MS}
        onClose={(_event, reason) => reason !== 'clickaway' && close()}
        anchorOrigin={{ vertical: 'bottom', horizontal: 'center' }}
      >
        <Alert severity={said?.severity ?? 'success'} variant="filled" onClose={close}>
          {said?.sentence}
        </Alert>
      </Snackbar>
    </SayContext>
  );
}
