"""The migrations of the database, as data: `taximeter migrate` hands this folder to dbmate."""
