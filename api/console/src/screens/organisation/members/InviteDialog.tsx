import TextField from '@mui/material/TextField';
import { useState } from 'react';

import { fetchClient, type Schemas } from '../../../api/client';
import { MoveDialog } from '../../../moves/MoveDialog';
import { useMove } from '../../../moves/useMove';
import { ChoiceField } from '../../../parts/FilterField';

type Body = Schemas['NewMember'];

const ROLES = [
  ['member', 'member: spends credits'],
  ['admin', 'admin: gives credits, and sees everything'],
] as const;

/** Repeating it changes nothing: the API needs no key to do it once. */
async function put(orgId: string, body: Body) {
  const { data } = await fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/members', {
    params: { path: { org_id: orgId } },
    body,
  });
  return data as Schemas['MemberPut'];
}

/** Adds somebody by user id; the API says whether they are in at once or have to accept. */
export function InviteDialog({ orgId, onClose }: { orgId: string; onClose: () => void }) {
  const [userId, setUserId] = useState('');
  const [role, setRole] = useState('member');
  const move = useMove<Body, Schemas['MemberPut']>(`${orgId}/member`, (body) => put(orgId, body));
  return (
    <MoveDialog
      title="Add or invite somebody"
      verb="Add"
      move={move}
      body={
        userId.trim() === ''
          ? null
          : { user_id: userId.trim(), role: role as 'admin' | 'member', keep_keys: false }
      }
      describe={(body) => `${body.user_id} as ${body.role}.`}
      done={({ member }) =>
        member.status === 'invited'
          ? `${member.user_id} was invited.`
          : `${member.user_id} is a member.`
      }
      onClose={onClose}
    >
      <TextField
        autoFocus
        label="User id"
        value={userId}
        onChange={(event) => setUserId(event.target.value)}
        helperText="As the sign-in knows them"
      />
      <ChoiceField label="Role" value={role} onChange={setRole} options={ROLES} />
    </MoveDialog>
  );
}
