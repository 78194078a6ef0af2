"""The order of the steps, and the Python calls that users make.

preparing.py    `prepare`: raw counts to a prepared atlas
starting.py     the folder of a run: may it be used, and what is recorded in it
fitting.py      `fit`: models on folds, latents into the atlas
evaluating.py   `evaluate`: the table of scores; its subjects, forests (classifying), record (scores)
reporting.py    `report`: one page on a run; what its sections say in report_facts
pictures.py     what is to be seen of a run, gathered and written; UMAPs (umaps) of which cells (umap_cells)
run.py          `Run`: what users ask of a run; what a fit leaves on disk is read in run_files
projecting.py   cells as if they came from other batches: which (cells), laid out how (projection_plan,
                projection_rows);
                of which atlas (atlas_of); latents from elsewhere (frozen)
genomaps.py     pictures of such cells, and the layout they share
sketching.py    moments of all cells under all batches
comparing.py    two groups of donors, gene by gene
checking.py     projections of test cells against the target batches' own; calibrating: by how much
                intervals are widened, by cells held out (held_out)
effects.py      the random effects of a run as tables, and as files (effect_files)
embedding.py    new cells through a saved model
describing.py   `info`: what an atlas or a run is
"""

from medl_scale.pipeline.describing import info
from medl_scale.pipeline.fitting import fit
from medl_scale.pipeline.preparing import prepare
from medl_scale.pipeline.run import Run
from medl_scale.pipeline.sketching import open_sketch

__all__ = ["Run", "fit", "info", "open_sketch", "prepare"]
