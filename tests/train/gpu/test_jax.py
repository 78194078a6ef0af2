"""Training on a GPU by JAX: what it computes is what CPUs compute; run as `python -m pytest -m gpu`.

Keras reads its backend once, so fits run in processes of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medl_scale.evaluate.backend import require_gpu
from medl_scale.train.devices import list_cards

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[3]
ASK = "import jax; d = jax.devices()[0]; print(d.platform, (d.memory_stats() or {}).get('bytes_limit', 0))"


@pytest.fixture(scope="module")
def gpu():
    """What JAX tells of its first device in a fresh process; skips where that is a CPU."""
    problem = ""
    if not list_cards():
        problem = "nvidia-smi tells of no card"
    else:
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        ended = subprocess.run(
            [sys.executable, "-c", ASK],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0 or not ended.stdout.startswith("gpu"):
            problem = f"JAX has no GPU: {ended.stdout or ended.stderr[-300:]}"
    if problem:
        (pytest.fail if require_gpu() else pytest.skip)(problem)


def fits(atlas, folder, platform):
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": platform}
    # Without it a GPU rounds factors to 10 bits, as fits on it do.
    environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    command = [sys.executable, "-m", "tests.train.jax_fits", atlas, folder, "fe", "re", "me"]
    ended = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_losses_on_the_gpu_are_those_of_the_cpu(gpu, atlas_path, tmp_path):
    on_gpu, on_cpu = (fits(atlas_path, tmp_path / p, p) for p in ("cuda", "cpu"))
    for model, ways in on_gpu.items():
        for way, rows in ways.items():
            close = 2e-2 if way == "bf16" else 1e-4
            for found, expected in zip(rows, on_cpu[model]["dense"], strict=True):
                assert found["train_total"] == pytest.approx(expected["train_total"], rel=close), (
                    model,
                    way,
                )


def test_the_same_fit_twice_gives_the_same_bits(gpu, atlas_path, tmp_path):
    first, second = (fits(atlas_path, tmp_path / name, "cuda") for name in ("a", "b"))
    for model in first:
        assert first[model]["kept"] == second[model]["kept"]


def test_a_process_takes_one_card_and_no_more_memory_than_it_is_given(gpu):
    code = (
        "import os, jax\n"
        "from medl_scale.train.devices import take_device\n"
        "take_device('jax', 2 << 30)\n"
        "print(len(jax.devices()), jax.devices()[0].memory_stats()['bytes_limit'])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert told[0] == "1"
    assert int(told[1]) <= (2 << 30) * 1.01


def test_tensorflow_grows_on_its_card(gpu):
    pytest.importorskip("tensorflow")
    code = (
        "from medl_scale.train.devices import take_device\n"
        "take_device('tensorflow')\n"
        "import tensorflow as tf\n"
        "cards = tf.config.list_physical_devices('GPU')\n"
        "print(len(cards), all(tf.config.experimental.get_memory_growth(c) for c in cards))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    if told[0] == "0":
        pytest.skip("this TensorFlow has no GPU support")
    assert told == ["1", "True"]
