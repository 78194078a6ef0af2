"""Silhouettes of all cells: exact, certified, or estimated with an interval.

silhouette.py          the public functions
silhouette_methods.py  which way fits the cells and the time
silhouette_batch.py    of labels, of batches within labels, BRAS (other_distances.py)
layout.py              cells sorted by label, about the mean of their label
brute.py               all pairs; distance_sums.py, symmetric_sums.py, distance_lanes.py are its loops
pruned.py              the labels that can be the nearest (exact.py: results of both)
subclusters.py         bounds of mean distances; cutting.py, moments.py, *_kernels.py make them
gridded/               two dimensions: fields on grids, with a proven certificate
two_phase.py           an estimate with an interval; query_sample.py, strata.py draw its cells
"""
