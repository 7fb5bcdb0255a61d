"""Paths in the columns of CSV and Parquet files."""
