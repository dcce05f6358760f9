import Button from '@mui/material/Button';
import Chip from '@mui/material/Chip';
import IconButton from '@mui/material/IconButton';
import Menu from '@mui/material/Menu';
import MenuItem from '@mui/material/MenuItem';
import { useState } from 'react';

import { Deliveries } from './Deliveries';
import { ChangeReceiverDialog, CreateReceiverDialog, RotateDialog } from './ReceiverDialog';
import { typesInWords } from './types';
import { api, fetchClient, type Schemas } from '../../../api/client';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { Confirm } from '../../../parts/Confirm';
import { EmptyState } from '../../../parts/EmptyState';
import { MoreIcon } from '../../../parts/icons';
import { ListPanel, nextOffset, offsetOf } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { useCursor } from '../../../parts/useCursor';

const PAGE = 50;

type Receiver = Schemas['ReceiverView'];
/** What is being done to which receiver. */
interface Doing {
  what: 'change' | 'rotate' | 'state' | 'remove';
  to: Receiver;
}

/** Where notices are sent, and what became of each. */
export default function Webhooks() {
  const orgId = useThisOrg();
  const [filters, change] = useFilters({ receiver: '', do: '', deliveries: '' });
  const cursor = useCursor();
  const [doing, setDoing] = useState<Doing | null>(null);
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
          { name: 'Hears of', wide: true, cell: (one) => typesInWords(one.types) },
          { name: 'Last success', wide: true, cell: (one) => <Moment at={one.succeeded_at} /> },
          {
            name: '',
            figure: true,
            cell: (one) => (
              <>
                <Button onClick={() => change({ receiver: one.receiver_id, deliveries: '' })}>
                  Deliveries
                </Button>
                <MoreButton receiver={one} choose={(what) => setDoing({ what, to: one })} />
              </>
            ),
          },
        ]}
      />
      {chosen && <Deliveries key={chosen.receiver_id} orgId={orgId} receiver={chosen} />}
      {filters.do === 'create' && (
        <CreateReceiverDialog orgId={orgId} onClose={() => change({ do: '' })} />
      )}
      {doing && <Done {...doing} orgId={orgId} onClose={() => setDoing(null)} />}
    </Page>
  );
}

interface MoreButtonProps {
  receiver: Receiver;
  choose: (what: Doing['what']) => void;
}

function MoreButton({ receiver, choose }: MoreButtonProps) {
  const [anchor, setAnchor] = useState<HTMLElement | null>(null);
  const items: readonly (readonly [Doing['what'], string] | false)[] = [
    ['change', 'Change what it hears of'],
    ['state', receiver.state === 'active' ? 'Pause' : 'Resume'],
    receiver.kind === 'webhook' && ['rotate', 'Rotate its secret'],
    ['remove', 'Remove'],
  ];
  return (
    <>
      <IconButton
        size="small"
        aria-label={`More about ${receiver.name}`}
        aria-haspopup="menu"
        onClick={(event) => setAnchor(event.currentTarget)}
      >
        <MoreIcon />
      </IconButton>
      <Menu open={anchor !== null} anchorEl={anchor} onClose={() => setAnchor(null)}>
        {items
          .filter((item) => item !== false)
          .map(([what, word]) => (
            <MenuItem
              key={what}
              onClick={() => {
                setAnchor(null);
                choose(what);
              }}
            >
              {word}
            </MenuItem>
          ))}
      </Menu>
    </>
  );
}

function Done({ what, to, orgId, onClose }: Doing & { orgId: string; onClose: () => void }) {
  const params = { path: { org_id: orgId, receiver_id: to.receiver_id } };
  const address = '/api/v1/org-billing/orgs/{org_id}/receivers/{receiver_id}';
  const pausing = to.state === 'active';
  switch (what) {
    case 'change':
      return <ChangeReceiverDialog orgId={orgId} receiver={to} onClose={onClose} />;
    case 'rotate':
      return <RotateDialog orgId={orgId} receiver={to} onClose={onClose} />;
    case 'state':
      return (
        <Confirm
          title={`${pausing ? 'Pause' : 'Resume'} “${to.name}”?`}
          verb={pausing ? 'Pause' : 'Resume'}
          said={pausing ? 'It is paused.' : 'It is told again.'}
          act={() =>
            fetchClient.PATCH(address, { params, body: { state: pausing ? 'paused' : 'active' } })
          }
          onClose={onClose}
        >
          {pausing
            ? 'Nothing is kept for it meanwhile: what it misses can be sent again afterwards.'
            : 'It hears of what happens from now on. What it has missed can be sent again.'}
        </Confirm>
      );
    case 'remove':
      return (
        <Confirm
          title={`Remove “${to.name}”?`}
          verb="Remove"
          said="Nothing is sent there any more."
          act={() => fetchClient.DELETE(address, { params })}
          onClose={onClose}
        >
          What waits to be sent there is not sent.
        </Confirm>
      );
  }
}
