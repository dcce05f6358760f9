import Autocomplete from '@mui/material/Autocomplete';
import Box from '@mui/material/Box';
import TextField from '@mui/material/TextField';

import type { MemberBalance } from './balances';
import { api } from '../api/client';
import { formatAmount } from '../lib/money';

interface MemberFieldProps {
  orgId: string;
  label: string;
  value: string;
  onChange: (userId: string) => void;
  /** Who stands in another field and makes no sense here. */
  except?: string;
  balance: MemberBalance | null;
  autoFocus?: boolean;
}

const SUGGESTED = 100;

/**
 * Which member: chosen from the list, or by the whole id where the list is longer. What is typed is
 * taken as it stands: nobody is chosen for being first in the list.
 */
export function MemberField(props: MemberFieldProps) {
  const { orgId, label, value, onChange, except, balance, autoFocus = false } = props;
  const { data } = api.useQuery('get', '/api/v1/org-billing/orgs/{org_id}/members', {
    params: { path: { org_id: orgId }, query: { status: 'active', limit: SUGGESTED } },
  });
  const members = (data?.members ?? []).filter((one) => one.user_id !== except);
  const emails = new Map(members.map((one) => [one.user_id, one.user_email]));
  return (
    <Autocomplete
      freeSolo
      autoSelect
      options={members.map((one) => one.user_id)}
      getOptionLabel={(userId) => userId}
      filterOptions={(ids, { inputValue }) => {
        const wanted = inputValue.toLowerCase();
        return ids.filter((id) => `${id} ${emails.get(id) ?? ''}`.toLowerCase().includes(wanted));
      }}
      // Enter chooses; it does not send what nobody has seen a preview of.
      onKeyDown={(event) => {
        if (event.key === 'Enter') event.preventDefault();
      }}
      value={value || null}
      onChange={(_event, chosen) => onChange(chosen ?? '')}
      renderOption={({ key, ...option }, userId) => (
        <Box component="li" key={key} {...option} sx={{ gap: 1, flexWrap: 'wrap' }}>
          {userId}
          <Box component="span" sx={{ color: 'text.secondary', fontSize: '0.75rem' }}>
            {emails.get(userId)}
          </Box>
        </Box>
      )}
      renderInput={(params) => (
        <TextField
          {...params}
          label={label}
          autoFocus={autoFocus}
          helperText={balance ? `${formatAmount(balance.remaining)} credits remaining` : ' '}
        />
      )}
    />
  );
}
