import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import { useMutation, useQueryClient } from '@tanstack/react-query';

import { api, fetchClient, type Schemas } from '../../api/client';
import { useSay } from '../../parts/Said';

/** Organisations that have invited somebody, to be accepted or declined; nothing where none has. */
export function Invitations() {
  const { data } = api.useQuery('get', '/api/v1/org-billing/invitations');
  return data?.invitations.map((one) => <Invitation key={one.org_id} invitation={one} />);
}

function Invitation({ invitation }: { invitation: Schemas['InvitationView'] }) {
  const client = useQueryClient();
  const say = useSay();
  const params = { path: { org_id: invitation.org_id } };
  const { mutate, isPending } = useMutation({
    mutationFn: (accept: boolean) =>
      accept
        ? fetchClient.POST('/api/v1/org-billing/invitations/{org_id}/accept', { params })
        : fetchClient.DELETE('/api/v1/org-billing/invitations/{org_id}', { params }),
    onSuccess: () => client.invalidateQueries(),
    onError: (error) => say(error.message, 'error'),
  });
  return (
    <Alert
      severity="info"
      variant="outlined"
      action={
        <>
          <Button color="inherit" disabled={isPending} onClick={() => mutate(false)}>
            Decline
          </Button>
          <Button variant="contained" disabled={isPending} onClick={() => mutate(true)}>
            Accept
          </Button>
        </>
      }
    >
      {invitation.org_name} invites you as {invitation.role}.
    </Alert>
  );
}
