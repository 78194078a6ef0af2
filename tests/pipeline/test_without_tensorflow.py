"""Where JAX is installed and TensorFlow is not, everything works but posteriors as TFP distributions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medl_scale.store.atlas import describe

pytest.importorskip("jax", reason="JAX is not installed")

ROOT = Path(__file__).resolve().parents[2]
# An import of these fails as if they were not installed.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_probability", "tf_keras")))
"""
FIT = f"""{WITHOUT}
from medl_scale.cli import main
main(sys.argv[1:])
"""
READ = f"""{WITHOUT}
from medl_scale import Run
from medl_scale.errors import MissingExtraError
run = Run(sys.argv[1])
print("ilisi_knn" in set(run.scores.table["metric"]))
try:
    run.posterior("re", sys.argv[2])
except MissingExtraError as error:
    print(error)
"""


def python(code, *arguments):
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow  # compiles a fit, an encoder and the metrics: 30 seconds of one core
def test_fit_and_evaluate_on_jax_need_no_tensorflow(atlas, tmp_path):
    run = tmp_path / "run"
    sizes = ("--max-epochs", 2, "--minibatch-size", 128, "--threads", 1)
    python(FIT, "fit", atlas, "-o", run, "--models", "re,pca", *sizes, "--no-latents")
    scored, *error = python(READ, run, describe(atlas).batch_levels[0]).splitlines()
    assert scored == "True"
    assert "need TensorFlow Probability. Install it: pip install tensorflow" in error[0]
