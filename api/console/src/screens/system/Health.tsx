import Chip from '@mui/material/Chip';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';

import { Figures } from './Figures';
import type { SystemLive } from './useSystemLive';
import { Count } from '../../parts/Amount';
import { Loading } from '../../parts/Loading';

/** How far the books are behind, and what each shard does. */
export function Health({ live: { said } }: { live: SystemLive }) {
  if (!said) return <Loading />;
  const waiting = said.shards.reduce((sum, shard) => sum + shard.unsettled_events, 0);
  const holds = said.shards.reduce((sum, shard) => sum + shard.open_holds, 0);
  return (
    <Stack sx={{ gap: 2 }}>
      <Figures
        of={[
          { name: 'Status', value: said.status },
          { name: 'Books lag by', value: `${said.settlement_lag_s.toFixed(1)} s` },
          { name: 'Events to settle', value: <Count of={waiting} /> },
          { name: 'Open holds', value: <Count of={holds} /> },
        ]}
      />
      <Stack direction="row" sx={{ gap: 0.75, flexWrap: 'wrap' }} role="list" aria-label="Shards">
        {said.shards.map((shard) => (
          <Chip
            key={shard.shard}
            role="listitem"
            size="small"
            variant="outlined"
            color={shard.status === 'ok' ? 'default' : 'error'}
            label={`shard ${shard.shard}: ${shard.reason ?? shard.status}`}
          />
        ))}
      </Stack>
      {said.shards.length === 0 && (
        <Typography variant="body2">No settler has opened a shard yet.</Typography>
      )}
    </Stack>
  );
}
