-- Add expiration tracking to credit allocations
ALTER TABLE user_credit_allocations
ADD COLUMN expires_at TIMESTAMPTZ,
ADD COLUMN auto_renew BOOLEAN DEFAULT FALSE;

-- Create index for expired allocations query
CREATE INDEX idx_user_allocations_expires
ON user_credit_allocations(expires_at)
WHERE is_active = TRUE;

-- Function to deactivate expired allocations
CREATE OR REPLACE FUNCTION deactivate_expired_allocations()
RETURNS INTEGER AS $$
DECLARE
    v_count INTEGER;
BEGIN
    UPDATE user_credit_allocations
    SET is_active = FALSE
    WHERE is_active = TRUE
      AND expires_at IS NOT NULL
      AND expires_at < NOW()
    RETURNING COUNT(*) INTO v_count;

    RETURN v_count;
END;
$$ LANGUAGE plpgsql;

-- Add comment
COMMENT ON COLUMN user_credit_allocations.expires_at IS
    'When this allocation expires and becomes inactive';
