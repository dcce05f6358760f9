-- name: where_it_lives
-- The cell of an organisation, with its addresses; no row: no cell has it. $1 org_id
SELECT home.cell, cell.api_url, cell.sidecar_url
  FROM taximeter.cell_organizations AS home
  JOIN taximeter.cells AS cell ON cell.name = home.cell
 WHERE home.org_id = $1

-- name: claim
-- A new organisation of a cell, unless some cell has it, or its slug, already. $1 org_id, $2 slug, $3 cell
INSERT INTO taximeter.cell_organizations (org_id, slug, cell) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING

-- name: put_cell
-- A cell and its addresses. $1 name, $2 address of the API, $3 address of the sidecar
INSERT INTO taximeter.cells AS cell (name, api_url, sidecar_url) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET api_url = EXCLUDED.api_url, sidecar_url = EXCLUDED.sidecar_url

-- name: cells
-- Every cell, and how many organisations live there.
SELECT cell.name, cell.api_url, cell.sidecar_url,
       (SELECT count(*) FROM taximeter.cell_organizations AS home WHERE home.cell = cell.name) AS organizations
  FROM taximeter.cells AS cell
 ORDER BY cell.name

-- name: organizations_page
-- The organisations of this database, page by page. $1 the last one seen, $2 page
SELECT id, slug FROM organizations WHERE id > $1 ORDER BY id LIMIT $2

-- name: register
-- Organisations that live in a cell; those that are in the directory stay as they are there. Answers those that another cell has, or
-- whose slug another organisation has. $1 org ids, $2 slugs, $3 cell
WITH wanted AS (
    SELECT org_id, slug FROM unnest($1::text[], $2::text[]) AS wanted (org_id, slug)
), added AS (
    INSERT INTO taximeter.cell_organizations (org_id, slug, cell) SELECT org_id, slug, $3 FROM wanted ORDER BY org_id
    ON CONFLICT DO NOTHING
    RETURNING org_id
)
SELECT wanted.org_id, home.cell
  FROM wanted
  LEFT JOIN taximeter.cell_organizations AS home ON home.org_id = wanted.org_id
 WHERE wanted.org_id NOT IN (SELECT org_id FROM added) AND home.cell IS DISTINCT FROM $3
 ORDER BY wanted.org_id

-- name: hand_over
-- A charge that the organisation's own cell is to make. $1 org_id, $2 request_id, $3 user_id, $4 millicredits, $5 payload, $6 this cell
INSERT INTO taximeter.cell_late_charges (org_id, request_id, user_id, amount, payload, from_cell) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING

-- name: late_charges
-- Charges that other cells have handed over to this one, the oldest first. $1 this cell, $2 most
SELECT late.org_id, late.user_id, late.request_id, late.amount, late.payload
  FROM taximeter.cell_late_charges AS late
  JOIN taximeter.cell_organizations AS home ON home.org_id = late.org_id AND home.cell = $1
 ORDER BY late.at
 LIMIT $2

-- name: taken
-- $1 org_id, $2 request_id
DELETE FROM taximeter.cell_late_charges WHERE org_id = $1 AND request_id = $2
