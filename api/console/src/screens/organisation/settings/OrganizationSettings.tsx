import Alert from '@mui/material/Alert';
import Button from '@mui/material/Button';
import Stack from '@mui/material/Stack';
import TextField from '@mui/material/TextField';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { fetchClient, type Schemas } from '../../../api/client';
import { Panel } from '../../../parts/Panel';
import { RefusalText } from '../../../parts/RefusalText';
import { useSay } from '../../../parts/Said';

type Organization = Schemas['taximeter__api__routes__organizations__OrganizationView'];

export function OrganizationSettings({ organization }: { organization: Organization }) {
  const [name, setName] = useState(organization.org_name);
  const [email, setEmail] = useState(organization.billing_email ?? '');
  const client = useQueryClient();
  const say = useSay();
  const { mutate, isPending, error } = useMutation({
    mutationFn: () =>
      fetchClient.PATCH('/api/v1/org-billing/orgs/{org_id}', {
        params: { path: { org_id: organization.org_id } },
        body: {
          ...(name !== organization.org_name && { org_name: name }),
          ...(email !== organization.billing_email && { billing_email: email }),
        },
      }),
    onSuccess: async () => {
      say('Saved.');
      await client.invalidateQueries();
    },
  });
  const isChanged = name !== organization.org_name || email !== (organization.billing_email ?? '');
  return (
    <Panel title="Organisation">
      <Stack
        component="form"
        noValidate
        sx={{ gap: 2, pt: 1, maxWidth: 480, alignItems: 'flex-start' }}
        onSubmit={(event: React.SubmitEvent) => {
          event.preventDefault();
          mutate();
        }}
      >
        {error && (
          <Alert severity="error">
            <RefusalText error={error} />
          </Alert>
        )}
        <TextField label="Name" value={name} onChange={(event) => setName(event.target.value)} />
        <TextField
          label="Bills go to"
          value={email}
          onChange={(event) => setEmail(event.target.value)}
        />
        <Button type="submit" variant="contained" disabled={!isChanged} loading={isPending}>
          Save
        </Button>
      </Stack>
    </Panel>
  );
}
