import Button from '@mui/material/Button';
import Chip from '@mui/material/Chip';
import Stack from '@mui/material/Stack';
import Typography from '@mui/material/Typography';

import { useState } from 'react';

import { fetchClient, type Schemas } from '../../api/client';
import { formatDollars, fromCredits, minus } from '../../lib/money';
import { formatDay } from '../../lib/time';
import { Confirm } from '../../parts/Confirm';
import { Go } from '../../parts/Go';
import { Panel } from '../../parts/Panel';
import { PoolBar } from '../../parts/PoolBar';
import { useSession } from '../../session/session';

/** One organisation of somebody: what is left there of their allocation. */
export function OrganizationCard({
  organization: one,
}: {
  organization: Schemas['BillingOfOrganization'];
}) {
  return (
    <Panel
      title={<Go to={`/o/${encodeURIComponent(one.org_id)}`}>{one.org_name}</Go>}
      aside={<Chip size="small" label={one.personal ? 'personal' : one.role} />}
    >
      <Stack sx={{ gap: 1.5 }}>
        {one.allocation ? (
          <AllocationBar allocation={one.allocation} />
        ) : (
          <Typography variant="body2" sx={{ color: 'text.secondary' }}>
            Nothing is allocated to you here.
          </Typography>
        )}
        <Stack
          direction="row"
          sx={{ alignItems: 'center', justifyContent: 'space-between', gap: 1 }}
        >
          <Typography variant="caption" sx={{ color: 'text.secondary' }}>
            {one.subscription
              ? `${one.subscription.plan_name}, ${formatDollars(one.subscription.monthly_price)} a month`
              : 'No subscription'}
            {one.next_reset_date && ` · next period ${formatDay(one.next_reset_date)}`}
          </Typography>
          {!one.personal && <Leave organization={one} />}
        </Stack>
      </Stack>
    </Panel>
  );
}

function Leave({ organization }: { organization: Schemas['BillingOfOrganization'] }) {
  const { userId } = useSession();
  const [asking, setAsking] = useState(false);
  const leave = () =>
    fetchClient.DELETE('/api/v1/org-billing/orgs/{org_id}/members/{user_id}', {
      params: { path: { org_id: organization.org_id, user_id: userId } },
    });
  return (
    <>
      <Button color="inherit" onClick={() => setAsking(true)}>
        Leave
      </Button>
      {asking && (
        <Confirm
          title={`Leave ${organization.org_name}?`}
          verb="Leave"
          said={`You have left ${organization.org_name}.`}
          act={leave}
          onClose={() => setAsking(false)}
        >
          What you have not spent returns to its pool, and only an admin can let you in again.
        </Confirm>
      )}
    </>
  );
}

function AllocationBar({ allocation }: { allocation: Schemas['AllocationOfUser'] }) {
  const allocated = fromCredits(allocation.allocated_credits);
  const remaining = fromCredits(allocation.remaining_credits);
  return (
    <PoolBar
      label="Allocation"
      parts={[
        {
          name: 'Used',
          amount: minus(allocated, remaining),
          colour: 'used',
          meaning: 'What your requests have cost, open ones included.',
        },
        { name: 'Left', amount: remaining, colour: 'free', meaning: 'What you can still spend.' },
      ]}
    />
  );
}
