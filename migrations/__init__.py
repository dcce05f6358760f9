"""Holds the migrations as data: `taximeter migrate` hands this folder to dbmate."""
