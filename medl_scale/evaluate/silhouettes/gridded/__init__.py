"""Silhouettes in two dimensions from gridded fields, with a proven error for every cell.

`silhouettes`           the public call: survey all cells, then settle those in doubt
`survey`, `squares`     all labels on shared, nested grids
`stacks`                one label on grids of its own
`fields`                mean distances at the nodes of a grid, by Fourier transforms
`spreading`, `gathering`, `intervals`  the compiled loops
`interpolation_bounds`  the proof of what interpolation may cost
`estimates`             what is known of a block of cells
"""

from medl_scale.evaluate.silhouettes.gridded.silhouettes import GriddedResult, gridded_samples

__all__ = ["GriddedResult", "gridded_samples"]
