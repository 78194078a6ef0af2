"""Metrics as plain functions over arrays: no AnnData, no Dask, no files."""
