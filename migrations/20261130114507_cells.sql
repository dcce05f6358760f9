-- Why: an organisation lives in one cell, a whole Taximeter of its own. A small directory, in a database that all cells can read, says in
-- which. See docs/cells.md.
-- Locks: none on tables that are in use.
-- Older code beside it: yes.

-- migrate:up
CREATE TABLE taximeter.cells (
    name        text PRIMARY KEY,
    api_url     text NOT NULL,
    sidecar_url text NOT NULL,
    added_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT name_is_well_formed CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
    CONSTRAINT addresses_are_urls CHECK (
        api_url ~ '^https?://[!-~]+$' AND sidecar_url ~ '^https?://[!-~]+$'
        AND length(api_url) <= 500 AND length(sidecar_url) <= 500)
);
COMMENT ON TABLE taximeter.cells IS 'The directory, in the one database that TAXIMETER_DIRECTORY_URL names: which cells there are.';

CREATE TABLE taximeter.cell_organizations (
    org_id text PRIMARY KEY,
    slug   text NOT NULL CONSTRAINT slug_is_used_in_one_cell UNIQUE,
    cell   text NOT NULL CONSTRAINT cell_is_known REFERENCES taximeter.cells (name),
    since  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE taximeter.cell_organizations IS 'The directory: in which cell each organisation lives.';
-- Serves "how many organisations has this cell".
CREATE INDEX cell_organizations_by_cell ON taximeter.cell_organizations (cell);

REVOKE ALL ON taximeter.cells, taximeter.cell_organizations FROM taximeter_app, taximeter_settler, taximeter_sidecar;
GRANT SELECT ON taximeter.cells, taximeter.cell_organizations TO taximeter_app, taximeter_sidecar;
GRANT INSERT ON taximeter.cell_organizations TO taximeter_app;

-- migrate:down
DROP TABLE taximeter.cell_organizations, taximeter.cells;
