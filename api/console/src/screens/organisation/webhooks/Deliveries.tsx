import Button from '@mui/material/Button';
import { useMutation, useQueryClient } from '@tanstack/react-query';

import { api, fetchClient, type Schemas } from '../../../api/client';
import { useFilters } from '../../../app/addresses';
import { EmptyState } from '../../../parts/EmptyState';
import { ChoiceField } from '../../../parts/FilterField';
import { ListPanel } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { useSay } from '../../../parts/Said';
import { useCursor } from '../../../parts/useCursor';

interface DeliveriesProps {
  orgId: string;
  receiver: Schemas['ReceiverView'];
}

type State = 'waiting' | 'delivered' | 'failed';
const STATES = [
  ['', 'all'],
  ['waiting', 'waiting'],
  ['delivered', 'delivered'],
  ['failed', 'failed'],
] as const;

/** What was sent to a receiver, how often it was tried, and the way to send it again. */
export function Deliveries({ orgId, receiver }: DeliveriesProps) {
  const [filters, change] = useFilters({ state: '' });
  const cursor = useCursor('deliveries');
  const client = useQueryClient();
  const say = useSay();
  const path = { org_id: orgId, receiver_id: receiver.receiver_id };
  const query = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs/{org_id}/receivers/{receiver_id}/deliveries',
    {
      params: {
        path,
        query: {
          limit: 50,
          ...(filters.state && { state: filters.state as State }),
          ...(cursor.at && { cursor: cursor.at }),
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const told = async (sentence: string) => {
    say(sentence);
    await client.invalidateQueries();
  };
  const test = useMutation({
    mutationFn: () =>
      fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/receivers/{receiver_id}/test', {
        params: { path },
      }),
    onSuccess: () => told('A test notice is on its way.'),
    onError: (error) => say(error.message, 'error'),
  });
  const resend = useMutation({
    mutationFn: (noticeId: string) =>
      fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/receivers/{receiver_id}/resend', {
        params: { path },
        body: { notice_id: noticeId, also_delivered: true },
      }),
    onSuccess: () => told('It is sent again.'),
    onError: (error) => say(error.message, 'error'),
  });
  return (
    <ListPanel
      label="Deliveries"
      title={`Deliveries to ${receiver.name}`}
      aside={
        <Button loading={test.isPending} onClick={() => test.mutate()}>
          Send a test
        </Button>
      }
      query={query}
      rows={query.data?.deliveries}
      keyOf={(one) => String(one.delivery_id)}
      cursor={cursor}
      next={query.data?.next}
      filters={
        <ChoiceField
          label="State"
          value={filters.state}
          onChange={(state) => {
            change({ state });
            cursor.begin();
          }}
          options={STATES}
        />
      }
      empty={<EmptyState title="Nothing was sent there yet" />}
      columns={[
        { name: 'Of', cell: (one) => <Moment at={one.at} /> },
        { name: 'Type', cell: (one) => one.type },
        { name: 'State', cell: (one) => one.state },
        { name: 'Tries', figure: true, cell: (one) => one.tries },
        { name: 'Last answer', wide: true, cell: (one) => answerOf(one) },
        { name: 'Next try', wide: true, cell: (one) => <Moment at={one.due_at} /> },
        {
          name: '',
          figure: true,
          cell: (one) => (
            <Button disabled={resend.isPending} onClick={() => resend.mutate(one.notice_id)}>
              Send again
            </Button>
          ),
        },
      ]}
    />
  );
}

function answerOf(delivery: Schemas['DeliveryView']): string {
  const last = delivery.log.at(-1);
  if (!last) return '–';
  return last.error ?? (last.status ? `HTTP ${last.status}` : '–');
}
