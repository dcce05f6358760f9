import Box from '@mui/material/Box';

import { Amount } from './Amount';
import { Refusal } from '../api/refusal';
import { fromCredits } from '../lib/money';

const FIGURES = [
  ['need', 'Needed'],
  ['have', 'There'],
  ['held', 'Held by open requests'],
  ['limit', 'Limit'],
] as const;

/** Why something was refused, in the API's words, with its figures in credits. */
export function RefusalText({ error }: { error: unknown }) {
  const said = error instanceof Error ? error.message : String(error);
  if (!(error instanceof Refusal)) return <>{said}</>;
  const figures = FIGURES.flatMap(([name, label]) => {
    const credits = error.figure(name);
    return credits === null ? [] : [{ label, amount: fromCredits(credits) }];
  });
  return (
    <>
      <Box sx={{ overflowWrap: 'anywhere' }}>{said}</Box>
      {figures.length > 0 && (
        <Box
          component="dl"
          sx={{ display: 'grid', gridTemplateColumns: 'auto 1fr', columnGap: 2, m: 0, mt: 0.5 }}
        >
          {figures.map(({ label, amount }) => (
            <Box key={label} sx={{ display: 'contents' }}>
              <Box component="dt">{label}</Box>
              <Box component="dd" sx={{ m: 0, fontWeight: 600 }}>
                <Amount of={amount} />
              </Box>
            </Box>
          ))}
        </Box>
      )}
      {error.status >= 500 && error.requestId && (
        <Box sx={{ mt: 0.5, opacity: 0.8 }}>Request {error.requestId}</Box>
      )}
    </>
  );
}
