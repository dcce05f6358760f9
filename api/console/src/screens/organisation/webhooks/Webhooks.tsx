import Button from '@mui/material/Button';
import Chip from '@mui/material/Chip';
import { useState } from 'react';

import { CreateReceiverDialog } from './CreateReceiverDialog';
import { Deliveries } from './Deliveries';
import { api, fetchClient, type Schemas } from '../../../api/client';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { Confirm } from '../../../parts/Confirm';
import { EmptyState } from '../../../parts/EmptyState';
import { ListPanel, nextOffset, offsetOf } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { useCursor } from '../../../parts/useCursor';

const PAGE = 50;

/** Where notices are sent, and what became of each. */
export default function Webhooks() {
  const orgId = useThisOrg();
  const [filters, change] = useFilters({ receiver: '', do: '', deliveries: '' });
  const cursor = useCursor();
  const [removing, setRemoving] = useState<Schemas['ReceiverView'] | null>(null);
  const query = api.useQuery('get', '/api/v1/org-billing/orgs/{org_id}/receivers', {
    params: { path: { org_id: orgId }, query: { limit: PAGE, offset: offsetOf(cursor) } },
  });
  const { data } = query;
  const create = (
    <Button variant="contained" onClick={() => change({ do: 'create' })}>
      Add a receiver
    </Button>
  );
  const chosen = data?.receivers.find((one) => one.receiver_id === filters.receiver);
  return (
    <Page title="Webhooks" about="Programs and people are told what has happened." actions={create}>
      <ListPanel
        label="Receivers"
        query={query}
        rows={data?.receivers}
        keyOf={(one) => one.receiver_id}
        cursor={cursor}
        next={data && nextOffset(data, data.receivers.length)}
        empty={
          <EmptyState
            title="Nobody is told yet"
            action={create}
            command={`taximeter admin receiver create ${orgId} NAME https://…`}
          >
            A receiver is a webhook, a channel of Slack or an e-mail address. It hears of low pools,
            payments, keys and members.
          </EmptyState>
        }
        columns={[
          { name: 'Name', cell: (one) => one.name },
          { name: 'Kind', wide: true, cell: (one) => one.kind },
          { name: 'Address', wide: true, cell: (one) => one.url },
          {
            name: 'State',
            cell: (one) => (
              <Chip
                size="small"
                variant="outlined"
                color={one.state === 'active' ? 'success' : 'warning'}
                label={one.reason ? `${one.state}: ${one.reason}` : one.state}
              />
            ),
          },
          { name: 'Last success', wide: true, cell: (one) => <Moment at={one.succeeded_at} /> },
          {
            name: '',
            figure: true,
            cell: (one) => (
              <>
                <Button onClick={() => change({ receiver: one.receiver_id, deliveries: '' })}>
                  Deliveries
                </Button>
                <Button color="error" onClick={() => setRemoving(one)}>
                  Remove
                </Button>
              </>
            ),
          },
        ]}
      />
      {chosen && <Deliveries key={chosen.receiver_id} orgId={orgId} receiver={chosen} />}
      {filters.do === 'create' && (
        <CreateReceiverDialog orgId={orgId} onClose={() => change({ do: '' })} />
      )}
      {removing && (
        <Confirm
          title={`Remove “${removing.name}”?`}
          verb="Remove"
          said="Nothing is sent there any more."
          act={() =>
            fetchClient.DELETE('/api/v1/org-billing/orgs/{org_id}/receivers/{receiver_id}', {
              params: { path: { org_id: orgId, receiver_id: removing.receiver_id } },
            })
          }
          onClose={() => setRemoving(null)}
        >
          What waits to be sent there is not sent.
        </Confirm>
      )}
    </Page>
  );
}
