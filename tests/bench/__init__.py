"""`make bench`: every promise about speed, measured against its baseline in the same run."""
