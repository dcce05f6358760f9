import Box from '@mui/material/Box';
import Button from '@mui/material/Button';
import TextField from '@mui/material/TextField';
import Typography from '@mui/material/Typography';
import { useState, type SyntheticEvent } from 'react';

import { wholeNumber } from './wholeNumber';
import { api } from '../../api/client';
import { fromCredits } from '../../lib/money';
import { Amount } from '../../parts/Amount';
import { ErrorState } from '../../parts/ErrorState';
import { Panel } from '../../parts/Panel';

const COUNTS = [
  ['input', 'Prompt tokens'],
  ['cache_read', 'Read from the cache'],
  ['output', 'Output tokens'],
  ['reasoning', 'Reasoning tokens'],
] as const;
const EMPTY = { model: '', input: '1000', cache_read: '0', output: '500', reasoning: '0' };

/** What a usage would be charged, worked out by the meter's own code. */
export function Calculator() {
  const [fields, setFields] = useState(EMPTY);
  const [asked, setAsked] = useState<typeof EMPTY | null>(null);
  const { data, error: refusal } = api.useQuery(
    'get',
    '/api/v1/org-billing/prices/quote',
    {
      params: {
        query: {
          model: asked?.model ?? '',
          input: wholeNumber(asked?.input),
          cache_read: wholeNumber(asked?.cache_read),
          output: wholeNumber(asked?.output),
          reasoning: wholeNumber(asked?.reasoning),
        },
      },
    },
    { enabled: asked !== null },
  );
  const error: unknown = refusal;
  const ask = (event: SyntheticEvent) => {
    event.preventDefault();
    setAsked({ ...fields, model: fields.model.trim() });
  };
  return (
    <Panel title="Calculator">
      <Box
        component="form"
        onSubmit={ask}
        sx={{
          display: 'grid',
          gap: 1.5,
          alignItems: 'start',
          gridTemplateColumns: { xs: '1fr 1fr', md: '2fr repeat(4, 1fr) auto' },
        }}
      >
        <TextField
          label="Model"
          value={fields.model}
          onChange={(event) => setFields({ ...fields, model: event.target.value })}
          required
        />
        {COUNTS.map(([name, label]) => (
          <TextField
            key={name}
            label={label}
            value={fields[name]}
            onChange={(event) => setFields({ ...fields, [name]: event.target.value })}
            slotProps={{ htmlInput: { inputMode: 'numeric' } }}
          />
        ))}
        <Button type="submit" variant="contained" disabled={!fields.model.trim()}>
          Work out
        </Button>
      </Box>
      <Box role="status" sx={{ mt: 1.5 }}>
        {error !== null && <ErrorState error={error} />}
        {data && error === null && (
          <Typography>
            <Amount of={fromCredits(data.credits)} sx={{ fontWeight: 650, fontSize: '1.125rem' }} />{' '}
            credits (exactly {data.exact_credits}), by {data.source} {data.version}
          </Typography>
        )}
      </Box>
    </Panel>
  );
}
