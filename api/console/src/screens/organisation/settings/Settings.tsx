import { OrganizationSettings } from './OrganizationSettings';
import { RefreshPanel } from './RefreshPanel';
import { SubscriptionPanel } from './SubscriptionPanel';
import { api } from '../../../api/client';
import { useThisOrg } from '../../../app/addresses';
import { Page } from '../../../parts/Page';

/** Name, billing address, plan and monthly credits of an organisation. */
export default function Settings() {
  const orgId = useThisOrg();
  const { data } = api.useSuspenseQuery('get', '/api/v1/org-billing/orgs/{org_id}', {
    params: { path: { org_id: orgId } },
  });
  return (
    <Page title="Settings" about={`${data.org_id}, ${data.state}`}>
      <OrganizationSettings key={data.org_name + (data.billing_email ?? '')} organization={data} />
      <SubscriptionPanel orgId={orgId} />
      <RefreshPanel orgId={orgId} />
    </Page>
  );
}
