"""Keeps old months of usage as Parquet files, and reads them again."""
