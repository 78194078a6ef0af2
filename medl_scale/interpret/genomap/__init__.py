"""Cells as images in which every gene has its pixel.

correlations  gene-gene correlations within batches, summed as cells stream by
grid          shape of the picture
map2d         the default layout: neighbours are genes that go together
ring          the published layout: rings about the centre
swaps         what improves both
layout        the record of where genes lie: learn, save, load, make images
panels        what a picture of cells shows
pictures      how it is drawn
"""

from medl_scale.interpret.genomap.correlations import GeneSums, correlations_of, stream_gene_sums
from medl_scale.interpret.genomap.layout import (
    Layout,
    learn_layout,
    load_layout,
    save_layout,
)
from medl_scale.interpret.genomap.panels import Panels, z_scores
from medl_scale.interpret.genomap.pictures import check_lines, check_pictures, draw_panels

__all__ = [
    "GeneSums",
    "Layout",
    "Panels",
    "check_lines",
    "check_pictures",
    "correlations_of",
    "draw_panels",
    "learn_layout",
    "load_layout",
    "save_layout",
    "stream_gene_sums",
    "z_scores",
]
