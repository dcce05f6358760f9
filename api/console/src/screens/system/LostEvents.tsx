import Button from '@mui/material/Button';
import Typography from '@mui/material/Typography';
import { useState } from 'react';

import { AcknowledgeLost } from './AcknowledgeLost';
import { queryClient, type Schemas } from '../../api/client';
import { Count } from '../../parts/Amount';
import { EmptyState } from '../../parts/EmptyState';
import { Moment } from '../../parts/Moment';
import { Panel } from '../../parts/Panel';
import { Rows } from '../../parts/Rows';

type Lost = Schemas['LostEvents'];

/** Events that Redis lost before they were booked, and who knows of them. */
export function LostEvents({ lost }: { lost: readonly Lost[] }) {
  const [chosen, setChosen] = useState<Lost | null>(null);
  const done = () => {
    setChosen(null);
    void queryClient.invalidateQueries({ queryKey: ['get', '/api/v1/org-billing/system/books'] });
  };
  const open = lost.filter((one) => one.acknowledged_at === null).length;
  return (
    <Panel
      title={open > 0 ? `Lost events: ${open.toLocaleString()} not acknowledged` : 'Lost events'}
      flush={lost.length > 0}
    >
      {lost.length === 0 ? (
        <EmptyState title="No event was ever lost">
          When Redis loses events before they are booked, they are listed here by number.
        </EmptyState>
      ) : (
        <Rows
          label="Lost events"
          rows={lost}
          keyOf={(one) => `${one.shard}-${one.epoch}-${one.seq_first}`}
          columns={[
            { name: 'Shard', cell: (one) => one.shard },
            { name: 'Events', cell: eventsOf },
            { name: 'How many', figure: true, cell: (one) => <Count of={one.events} /> },
            { name: 'Found', wide: true, cell: (one) => <Moment at={one.found_at} /> },
            {
              name: 'Known',
              cell: (one) =>
                one.acknowledged_at === null ? (
                  <Button
                    size="small"
                    onClick={() => setChosen(one)}
                    aria-label={`Acknowledge events ${eventsOf(one)} of shard ${one.shard}`}
                  >
                    Acknowledge
                  </Button>
                ) : (
                  <>
                    {one.note}
                    <Typography variant="caption" component="div" sx={{ color: 'text.secondary' }}>
                      {one.acknowledged_by}, <Moment at={one.acknowledged_at} />
                    </Typography>
                  </>
                ),
            },
          ]}
        />
      )}
      {chosen && (
        <AcknowledgeLost
          lost={chosen}
          said={eventsOf(chosen)}
          close={() => setChosen(null)}
          done={done}
        />
      )}
    </Panel>
  );
}

function eventsOf(lost: Lost): string {
  return `${lost.epoch}-${lost.seq_first} to ${lost.seq_last}`;
}
