-- name: insert
-- Why: who signs in, and the browser's session before it ends (no session outlives a sign-in); a few of those that have ended go as well.
-- $1 digest, $2 sealed, $3 user_id, $4 seconds until it ends, $5 digest of the session before, or null
WITH before AS (
    DELETE FROM taximeter.browser_sessions WHERE digest = $5
), ended AS (
    DELETE FROM taximeter.browser_sessions WHERE digest IN (
        SELECT digest FROM taximeter.browser_sessions WHERE ends_at < now() ORDER BY ends_at LIMIT 20 FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO taximeter.browser_sessions (digest, sealed, user_id, ends_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4));

-- name: find
-- $1 digest
SELECT sealed, generation, ends_at FROM taximeter.browser_sessions WHERE digest = $1 AND ends_at > now();

-- name: claim
-- Why: a refresh token is good once, so one process at a time uses it. $1 digest, $2 generation, $3 seconds
UPDATE taximeter.browser_sessions SET renewing_until = now() + make_interval(secs => $3)
WHERE digest = $1 AND generation = $2 AND renewing_until < now() AND ends_at > now()
RETURNING true;

-- name: renew
-- Why: one that was ended meanwhile stays ended. $1 digest, $2 sealed, $3 generation before
UPDATE taximeter.browser_sessions SET sealed = $2, generation = generation + 1, renewing_until = '-infinity'
WHERE digest = $1 AND generation = $3 AND ends_at > now()
RETURNING ends_at;

-- name: release
-- Why: the provider was away, and may be asked again. $1 digest, $2 generation
UPDATE taximeter.browser_sessions SET renewing_until = '-infinity' WHERE digest = $1 AND generation = $2;

-- name: end
-- $1 digest
DELETE FROM taximeter.browser_sessions WHERE digest = $1 RETURNING sealed;

-- name: people
-- Why: whom dev mode offers to be: those who were made members last come first. $1 how many at most
SELECT member.user_id, known.email,
       array_agg(organization.org_name || ', ' || member.role ORDER BY member.created_at, member.org_id) AS places
FROM organization_members AS member
JOIN organizations AS organization ON organization.id = member.org_id
LEFT JOIN taximeter.users AS known ON known.user_id = member.user_id
WHERE member.status = 'active' AND organization.deleted_at IS NULL
GROUP BY member.user_id, known.email
ORDER BY max(member.created_at) DESC, member.user_id LIMIT $1;
