"""What a model says of cells under other batches; knows of no run and no Dask.

targets.py   which batches: names, all, or the population
project.py   cells encoded, and decoded under each batch's effects
draws.py     draws from the posterior of the effects, and their intervals (drawn_sd: of many cells at once)
calibration.py  how much wider intervals must be to hold as often as they say
check.py     projections against cells that a batch really has (check_cells, as_if_means), and against
             what needs no network (baselines)
effects.py   the effects themselves, by gene and batch (effect_tables); genes that move most (moves);
             distances between batches by them (effect_distances)
groups.py    tests between groups of donors (donors, donor_tests, rank_test, random_intercept)
sketch.py    moments by type, source and target over all cells (sketching, sketch_files, grouping,
             group_moments, folded); distances between batches (dendrogram)
genomap/     images of genes: layouts and panels
"""
