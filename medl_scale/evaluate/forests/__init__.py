"""What random forests read from latents, beside what the batch alone tells them.

classification.py  two protocols and their controls: cells, and unseen batches
spaces.py          the sets of features that are asked, latents and controls
unseen.py          which batches a forest is kept from
verdicts.py        what the figures mean, in words
tally.py           what a forest got right
forest.py          one forest, as published
trees.py           its trees, wherever there is room
tree.py            one tree; tree_kernels.py, tree_splits.py, tree_keys.py are its loops
features.py        what a tree is told of a cell
"""
