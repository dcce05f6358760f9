-- The developer guide, word for word.
  DELETE FROM credit_usage_attribution WHERE org_id = '$ORG_ID';
  DELETE FROM user_credit_allocations WHERE org_id = '$ORG_ID';
  DELETE FROM organization_credit_pools WHERE org_id = '$ORG_ID';
  DELETE FROM organization_subscriptions WHERE org_id = '$ORG_ID';
  DELETE FROM organization_members WHERE org_id = '$ORG_ID';
  DELETE FROM organizations WHERE id = '$ORG_ID';
