"""Pictures of runs; receives tables and arrays, knows neither models nor Dask."""
