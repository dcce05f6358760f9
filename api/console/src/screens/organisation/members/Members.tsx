import Button from '@mui/material/Button';
import Tab from '@mui/material/Tab';
import Tabs from '@mui/material/Tabs';
import { lazy, Suspense } from 'react';

import { Allocations } from './Allocations';
import { People } from './People';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { TransferIcon } from '../../../parts/icons';
import { Page } from '../../../parts/Page';

const MoveDialogs = lazy(() => import('../../../moves/MoveDialogs'));

/** Who may spend how much of the pool, and who is in the organisation. */
export default function Members() {
  const orgId = useThisOrg();
  const [filters, change] = useFilters({ show: 'credits', do: '', for: '', at: '' });
  return (
    <Page
      title="Members"
      actions={
        <>
          <Button
            variant="outlined"
            startIcon={<TransferIcon />}
            onClick={() => change({ do: 'transfer', for: '' })}
          >
            Transfer
          </Button>
          <Button variant="contained" onClick={() => change({ do: 'allocate', for: '' })}>
            Allocate
          </Button>
        </>
      }
    >
      <Tabs
        value={filters.show === 'people' ? 'people' : 'credits'}
        onChange={(_event, show: string) => change({ show, at: '' })}
        aria-label="What is shown of members"
      >
        <Tab value="credits" label="Credits" />
        <Tab value="people" label="People and invitations" />
      </Tabs>
      {filters.show === 'people' ? <People orgId={orgId} /> : <Allocations orgId={orgId} />}
      <Suspense>{filters.do && <MoveDialogs orgId={orgId} />}</Suspense>
    </Page>
  );
}
