"""What the cells around a cell say: nearest neighbours, and the metrics made of them.

neighbours.py      the record, and who finds them
search.py          exact search: a k-d tree or tiles of matrix products, whichever costs less
kdtree.py, tiles.py, selection.py    their loops
descent.py         pynndescent, and what it misses
lisi.py            local inverse Simpson index (perplexity.py: its weights)
kbet.py            kBET; kbet_per_label.py within each label (diffusion.py: its space)
connectivity.py    graph connectivity
sampled_error.py   how far approximate neighbours can move a share or a median
"""
