-- The developer guide, word for word.
INSERT INTO organizations (id, org_name, slug, created_by)
VALUES ('test-dev-org', 'Developer Test Org', 'dev-test-org', 'test-user-123');

INSERT INTO organization_members (org_id, user_id, role, status)
VALUES ('test-dev-org', 'test-user-123', 'admin', 'active');

SELECT add_credits_to_pool('test-dev-org'::VARCHAR, 10000000::BIGINT, 100.00::DECIMAL);

SELECT allocate_credits_to_user(
    'test-dev-org'::VARCHAR,
    'test-user-123'::VARCHAR,
    5000000::BIGINT,
    'system'::VARCHAR
);
