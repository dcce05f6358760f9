import TextField from '@mui/material/TextField';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { fetchClient } from '../../../api/client';
import { ChoiceField } from '../../../parts/FilterField';
import { FormDialog } from '../../../parts/FormDialog';
import { useSay } from '../../../parts/Said';

const ROLES = [
  ['member', 'member: spends credits'],
  ['admin', 'admin: gives credits, and sees everything'],
] as const;

/** Adds somebody by user id; the API says whether they are in at once or have to accept. */
export function InviteDialog({ orgId, onClose }: { orgId: string; onClose: () => void }) {
  const [userId, setUserId] = useState('');
  const [role, setRole] = useState('member');
  const client = useQueryClient();
  const say = useSay();
  const { mutate, isPending, error } = useMutation({
    mutationFn: () =>
      fetchClient.POST('/api/v1/org-billing/orgs/{org_id}/members', {
        params: { path: { org_id: orgId } },
        body: { user_id: userId.trim(), role: role as 'admin' | 'member', keep_keys: false },
      }),
    onSuccess: async ({ data }) => {
      onClose();
      say(data?.member.status === 'invited' ? `${userId} was invited.` : `${userId} is a member.`);
      await client.invalidateQueries();
    },
  });
  return (
    <FormDialog
      title="Add or invite somebody"
      verb="Add"
      ready={userId.trim() !== ''}
      pending={isPending}
      error={error}
      onSubmit={() => mutate()}
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
    </FormDialog>
  );
}
