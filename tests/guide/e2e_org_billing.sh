#!/bin/bash
# tests/e2e_org_billing.sh

set -e

echo "🧪 E2E Test: Organization Billing Flow"

# 1. Create organization subscription
echo "1️⃣ Creating subscription..."
SUB_RESPONSE=$(curl -s -X POST http://localhost:8084/api/v1/org-billing/subscriptions \
  -H "Content-Type: application/json" \
  -H "Cookie: session_token=$SESSION_TOKEN" \
  -d '{
    "org_id": "e2e-test-org",
    "plan_code": "professional",
    "org_name": "E2E Test Organization",
    "billing_email": "e2e@test.com",
    "initial_credits": 10000.0,
    "user_id": "e2e-user-123"
  }')

ORG_ID=$(echo $SUB_RESPONSE | jq -r '.subscription.org_id')
echo "✅ Subscription created: $ORG_ID"

# 2. Allocate credits to user
echo "2️⃣ Allocating credits to user..."
ALLOC_RESPONSE=$(curl -s -X POST http://localhost:8084/api/v1/org-billing/credits/$ORG_ID/allocate \
  -H "Content-Type: application/json" \
  -H "Cookie: session_token=$SESSION_TOKEN" \
  -d '{
    "user_id": "e2e-user-123",
    "credits": 5000.0
  }')

ALLOCATED=$(echo $ALLOC_RESPONSE | jq -r '.allocation.allocated_credits')
echo "✅ Allocated: $ALLOCATED credits"

# 3. Make LLM request
echo "3️⃣ Making LLM API request..."
LLM_RESPONSE=$(curl -s -X POST http://localhost:8084/api/v1/llm/chat/completions \
  -H "Content-Type: application/json" \
  -H "Cookie: session_token=$SESSION_TOKEN" \
  -d '{
    "model": "gpt-3.5-turbo",
    "messages": [
      {"role": "user", "content": "Test e2e billing"}
    ]
  }')

COST=$(echo $LLM_RESPONSE | jq -r '.headers["X-Cost-Incurred"]')
REMAINING=$(echo $LLM_RESPONSE | jq -r '.headers["X-Credits-Remaining"]')
echo "✅ LLM request completed. Cost: $COST, Remaining: $REMAINING"

# 4. Verify usage attribution
echo "4️⃣ Verifying usage attribution..."
docker exec uchub-postgres psql -U unicorn -d unicorn_db -c "
  SELECT COUNT(*) as count
  FROM credit_usage_attribution
  WHERE org_id = '$ORG_ID' AND user_id = 'e2e-user-123';
" | grep -q "1" && echo "✅ Usage attributed correctly"

# 5. Get usage stats
echo "5️⃣ Getting usage statistics..."
USAGE_RESPONSE=$(curl -s "http://localhost:8084/api/v1/org-billing/credits/$ORG_ID/usage" \
  -H "Cookie: session_token=$SESSION_TOKEN")

TOTAL_USED=$(echo $USAGE_RESPONSE | jq -r '.total_credits_used')
echo "✅ Total credits used: $TOTAL_USED"

# 6. Cleanup
echo "6️⃣ Cleaning up test data..."
docker exec uchub-postgres psql -U unicorn -d unicorn_db -c "
  DELETE FROM credit_usage_attribution WHERE org_id = '$ORG_ID';
  DELETE FROM user_credit_allocations WHERE org_id = '$ORG_ID';
  DELETE FROM organization_credit_pools WHERE org_id = '$ORG_ID';
  DELETE FROM organization_subscriptions WHERE org_id = '$ORG_ID';
  DELETE FROM organization_members WHERE org_id = '$ORG_ID';
  DELETE FROM organizations WHERE id = '$ORG_ID';
"
echo "✅ Cleanup complete"

echo ""
echo "🎉 All E2E tests passed!"
