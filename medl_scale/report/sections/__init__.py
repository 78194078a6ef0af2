"""Sections of the report: each module turns tables and plain values into one `Section`.

missing.py   what stands where there is nothing to show: why, and the command that adds it
data.py      on what data: sizes, batches by cell types, where they come from
fits.py      what was fitted: models, settings, how to repeat it, warnings, curves
repeat.py    the commands that repeat a run
scores.py    the scores, grouped by latent, with their exactness; what forests mean
pictures.py  UMAPs, confusion of forests, distances between batches
effects.py   the genes that batches move most
what_if.py   the check of the what-if, and its viewer
words.py     what the words mean, how to cite
"""
