"""What a model says of cells under other batches; knows of no run and no Dask.

targets.py   which batches: names, all, or the population
project.py   cells encoded, and decoded under each batch's effects
draws.py     draws from the posterior of the effects, and their intervals
effects.py   the effects themselves, by gene and batch (effect_tables); genes that move most (moves)
groups.py    tests between groups of donors (donors, donor_tests, rank_test, random_intercept)
sketch.py    moments by type, source and target over all cells (sketching, sketch_files, grouping,
             group_moments, folded); distances between batches (dendrogram)
genomap/     images of genes: layouts and panels
"""
