import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { refreshOf } from './refresh';
import { api, fetchClient, type Schemas } from '../../../api/client';
import { formatAmount, fromCredits, plainText, toCredits } from '../../../lib/money';
import { formatDay } from '../../../lib/time';
import { AmountField } from '../../../moves/AmountField';
import { ErrorState } from '../../../parts/ErrorState';
import { Loading } from '../../../parts/Loading';
import { Panel } from '../../../parts/Panel';
import { RefusalText } from '../../../parts/RefusalText';
import { useSay } from '../../../parts/Said';
import { useSession } from '../../../session/session';

/** What the pool gets every month; a system admin sets it. */
export function RefreshPanel({ orgId }: { orgId: string }) {
  const { isSystemAdmin } = useSession();
  const { data, error, refetch } = api.useQuery('get', '/api/v1/org-billing/credits/{org_id}', {
    params: { path: { org_id: orgId } },
  });
  const refused: unknown = error;
  return (
    <Panel title="Monthly refresh">
      {refused ? (
        <ErrorState error={refused} again={() => void refetch()} />
      ) : !data ? (
        <Loading />
      ) : (
        <Stack sx={{ gap: 1.5, alignItems: 'flex-start', maxWidth: 480 }}>
          <Typography>{inWords(data)}</Typography>
          {isSystemAdmin ? (
            <RefreshForm key={data.monthly_refresh_amount} orgId={orgId} pool={data} />
          ) : (
            <Typography variant="body2" sx={{ color: 'text.secondary' }}>
              A system admin changes it.
            </Typography>
          )}
        </Stack>
      )}
    </Panel>
  );
}

function inWords(pool: Schemas['PoolDetails']): string {
  const amount = fromCredits(pool.monthly_refresh_amount);
  if (amount === 0) return 'The pool gets no credits by itself.';
  const last = pool.last_refresh_date && `, last on ${formatDay(pool.last_refresh_date)}`;
  return `The pool gets ${formatAmount(amount)} credits in the first minutes of each month (UTC)${last ?? ''}. What is left over stays.`;
}

function RefreshForm({ orgId, pool }: { orgId: string; pool: Schemas['PoolDetails'] }) {
  const before = fromCredits(pool.monthly_refresh_amount);
  const [text, setText] = useState(before === 0 ? '' : plainText(before));
  const client = useQueryClient();
  const say = useSay();
  const after = refreshOf(text);
  // Setting the same amount twice is setting it once: it needs no key.
  const { mutate, isPending, error } = useMutation({
    mutationFn: (credits: number) =>
      fetchClient.PUT('/api/v1/org-billing/credits/{org_id}/monthly-refresh', {
        params: { path: { org_id: orgId } },
        body: { credits },
      }),
    onSuccess: async () => {
      say('Saved: from the next month on.');
      await client.invalidateQueries();
    },
  });
  return (
    <Stack
      component="form"
      noValidate
      sx={{ gap: 2, alignItems: 'flex-start', width: '100%' }}
      onSubmit={(event: React.SubmitEvent) => {
        event.preventDefault();
        if (after !== null && after !== before) mutate(toCredits(after));
      }}
    >
      {error && (
        <Alert severity="error">
          <RefusalText error={error} />
        </Alert>
      )}
      <AmountField
        label="Credits a month"
        value={text}
        onChange={setText}
        zero="0 ends it, from the next month on"
      />
      <Button
        type="submit"
        variant="contained"
        disabled={after === null || after === before}
        loading={isPending}
      >
        Save
      </Button>
    </Stack>
  );
}
