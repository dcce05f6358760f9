import Box from '@mui/material/Box';
import LinearProgress from '@mui/material/LinearProgress';
import Table from '@mui/material/Table';
import TableBody from '@mui/material/TableBody';
import TableCell from '@mui/material/TableCell';
import TableContainer from '@mui/material/TableContainer';
import TableHead from '@mui/material/TableHead';
import TableRow from '@mui/material/TableRow';

import type { Schemas } from '../../../api/client';
import { fromCredits, minus, percentOf } from '../../../lib/money';
import type { FeedState } from '../../../live/feed';
import { Amount } from '../../../parts/Amount';
import { EmptyState } from '../../../parts/EmptyState';
import { Go, GoButton } from '../../../parts/Go';
import { Moment } from '../../../parts/Moment';
import { Panel } from '../../../parts/Panel';
import { Sparkline } from '../../../parts/Sparkline';

const WIDE = { display: { xs: 'none', md: 'table-cell' } };

interface MembersPanelProps {
  orgId: string;
  members: readonly Schemas['AllocationView'][];
  total: number | null;
  feed: FeedState;
}

/** The newest allocations with what is left of each, as it is now. */
export function MembersPanel({ orgId, members, total, feed }: MembersPanelProps) {
  const address = `/o/${encodeURIComponent(orgId)}/members`;
  return (
    <Panel
      title="Members, in credits"
      flush
      aside={
        <Go to={address}>{total === null ? 'All members' : `All ${total.toLocaleString()}`}</Go>
      }
    >
      {members.length === 0 ? (
        <EmptyState
          title="Nobody has credits yet"
          action={
            <GoButton to={address} search={{ do: 'allocate' }} variant="contained">
              Allocate credits
            </GoButton>
          }
        >
          Give a member a part of the pool; their requests are then charged to it.
        </EmptyState>
      ) : (
        <TableContainer>
          <Table size="small">
            <TableHead>
              <TableRow>
                <TableCell>Member</TableCell>
                <TableCell align="right">Allocated</TableCell>
                <TableCell align="right">Held</TableCell>
                <TableCell align="right">Remaining</TableCell>
                <TableCell sx={{ width: 120, display: { xs: 'none', lg: 'table-cell' } }}>
                  Used
                </TableCell>
                <TableCell sx={WIDE}>14 days</TableCell>
                <TableCell sx={WIDE}>Last request</TableCell>
              </TableRow>
            </TableHead>
            <TableBody>
              {members.map((one) => (
                <MemberRow key={one.id} orgId={orgId} member={one} feed={feed} />
              ))}
            </TableBody>
          </Table>
        </TableContainer>
      )}
    </Panel>
  );
}

interface MemberRowProps {
  orgId: string;
  member: Schemas['AllocationView'];
  feed: FeedState;
}

function MemberRow({ orgId, member, feed }: MemberRowProps) {
  const live = feed.members.get(member.user_id);
  const allocated = fromCredits(member.allocated_credits);
  const remaining = live?.remaining ?? fromCredits(member.remaining_credits);
  const used = percentOf(minus(allocated, remaining), allocated);
  return (
    <TableRow hover>
      <TableCell
        sx={{ maxWidth: 220, overflow: 'hidden', textOverflow: 'ellipsis', whiteSpace: 'nowrap' }}
      >
        <Go
          to={`/o/${encodeURIComponent(orgId)}/requests`}
          search={{ user: member.user_id }}
          color="text.primary"
        >
          {member.user_email ?? member.user_id}
        </Go>
      </TableCell>
      <TableCell align="right">
        <Amount of={allocated} />
      </TableCell>
      <TableCell align="right">
        <Amount of={live?.held ?? fromCredits(member.held_credits)} />
      </TableCell>
      <TableCell align="right" sx={{ fontWeight: 600 }}>
        <Amount of={remaining} />
      </TableCell>
      <TableCell sx={{ display: { xs: 'none', lg: 'table-cell' } }}>
        <Box sx={{ display: 'flex', alignItems: 'center', gap: 1 }}>
          <LinearProgress
            variant="determinate"
            value={Math.min(100, used)}
            color={used >= 90 ? 'warning' : 'primary'}
            aria-label={`${used} % used`}
            sx={{ flex: 1, height: 5, borderRadius: 3 }}
          />
        </Box>
      </TableCell>
      <TableCell sx={WIDE}>
        <Sparkline amounts={(member.credits_by_day ?? []).map(fromCredits)} />
      </TableCell>
      <TableCell sx={WIDE}>
        <Moment at={member.last_request_at} as="ago" />
      </TableCell>
    </TableRow>
  );
}
