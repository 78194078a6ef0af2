"""The order of the steps, and the Python calls that users make.

preparing.py    `prepare`: raw counts to a prepared atlas
starting.py     the folder of a run: may it be used, and what is recorded in it
fitting.py      `fit`: models on folds, latents into the atlas
evaluating.py   `evaluate`: the table of scores; its subjects, forests (classifying), record (scores)
run.py          `Run`: what a fit leaves on disk, read back
projecting.py   cells as if they came from other batches: which (cells), laid out how (projection_rows);
                of which atlas (atlas_of)
genomaps.py     pictures of such cells, and the layout they share
sketching.py    moments of all cells under all batches
effects.py      the random effects of a run as tables
embedding.py    new cells through a saved model
describing.py   `info`: what an atlas or a run is
"""

from medl_scale.pipeline.describing import info
from medl_scale.pipeline.fitting import fit
from medl_scale.pipeline.preparing import prepare
from medl_scale.pipeline.run import Run

__all__ = ["Run", "fit", "info", "prepare"]
