import Button from '@mui/material/Button';
import { useState } from 'react';

import { CreateKeyDialog } from './CreateKeyDialog';
import { stateOf } from './keyState';
import { api, fetchClient, type Schemas } from '../../../api/client';
import { KEY_PREFIX, KEYS_MAX, keysOf } from '../../../api/found';
import { useFilters, useThisOrg } from '../../../app/addresses';
import { Confirm } from '../../../parts/Confirm';
import { EmptyState } from '../../../parts/EmptyState';
import { ChoiceField, FilterField } from '../../../parts/FilterField';
import { ListPanel, nextOffset, offsetOf } from '../../../parts/ListPanel';
import { Moment } from '../../../parts/Moment';
import { Page } from '../../../parts/Page';
import { useCursor } from '../../../parts/useCursor';
import { roleIn, useSession } from '../../../session/session';

const SHOWN = [
  ['', 'those that work'],
  ['true', 'also ended ones'],
] as const;

/** API keys: what each may do, when it was last used, and when it ends. Members have their own. */
export default function Keys() {
  const orgId = useThisOrg();
  const session = useSession();
  const own = roleIn(session, orgId) !== 'admin';
  const [filters, change] = useFilters({ ended: '', do: '', key: '' });
  const cursor = useCursor();
  const [ending, setEnding] = useState<Schemas['ApiKeyView'] | null>(null);
  const query = api.useQuery(
    'get',
    '/api/v1/org-billing/orgs/{org_id}/keys',
    {
      params: {
        path: { org_id: orgId },
        query: {
          limit: KEYS_MAX,
          offset: offsetOf(cursor),
          include_ended: filters.ended === 'true',
        },
      },
    },
    { placeholderData: (before) => before },
  );
  const { data } = query;
  const found = data && (filters.key ? keysOf(data.keys, filters.key) : data.keys);
  const create = (
    <Button variant="contained" onClick={() => change({ do: 'create' })}>
      Create a key
    </Button>
  );
  return (
    <Page
      title={own ? 'My keys' : 'API keys'}
      about={own && 'They act for you alone, and end with your membership.'}
      actions={create}
    >
      <ListPanel
        label="API keys"
        query={query}
        rows={found}
        keyOf={(one) => one.key_id}
        cursor={cursor}
        next={data && nextOffset(data, data.keys.length)}
        filters={
          <>
            <FilterField
              label="Name, or beginning of the key"
              value={filters.key}
              onChange={(key) => change({ key })}
            />
            <ChoiceField
              label="Show"
              value={filters.ended}
              onChange={(ended) => {
                change({ ended });
                cursor.begin();
              }}
              options={SHOWN}
            />
          </>
        }
        empty={
          filters.key ? (
            <EmptyState title="No key on this page is called so, or begins so" />
          ) : (
            <EmptyState
              title="No key yet"
              action={create}
              command={
                own
                  ? `curl ${location.origin}/v1/models -H "Authorization: Bearer $KEY"`
                  : `taximeter admin api-key create ${orgId} NAME --may llm`
              }
            >
              A gateway or an OpenAI client shows a key with every request.
            </EmptyState>
          )
        }
        columns={[
          { name: 'Name', cell: (one) => one.name },
          { name: 'Key', wide: true, cell: (one) => `${KEY_PREFIX}${one.key_id}…${one.last_four}` },
          { name: 'May', cell: (one) => one.operations.join(', ') },
          own
            ? { name: 'Made by', wide: true, cell: (one) => one.created_by }
            : { name: 'For', wide: true, cell: (one) => one.user_id ?? 'any member' },
          {
            name: 'Last used',
            cell: (one) => (one.last_used_at ? <Moment at={one.last_used_at} as="ago" /> : 'never'),
          },
          { name: 'Ends', wide: true, cell: (one) => <Moment at={one.expires_at} /> },
          {
            name: '',
            figure: true,
            cell: (one) =>
              stateOf(one) !== 'works' ? (
                stateOf(one)
              ) : own && one.created_by !== session.userId ? (
                'made by an admin'
              ) : (
                <Button color="error" onClick={() => setEnding(one)}>
                  Revoke
                </Button>
              ),
          },
        ]}
      />
      {filters.do === 'create' && (
        <CreateKeyDialog orgId={orgId} own={own} onClose={() => change({ do: '' })} />
      )}
      {ending && (
        <Confirm
          title={`Revoke “${ending.name}”?`}
          verb="Revoke"
          said="The key is revoked."
          act={() =>
            fetchClient.DELETE('/api/v1/org-billing/orgs/{org_id}/keys/{key_id}', {
              params: { path: { org_id: orgId, key_id: ending.key_id } },
            })
          }
          onClose={() => setEnding(null)}
        >
          Requests with it are refused from now on, and there is no way back.
        </Confirm>
      )}
    </Page>
  );
}
