"""The benchmarks run, count what the graph computes, and say what they measured."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_step import Case, Sizes, build, matrix_flops, random_feeds
from benchmarks.figures import Figure
from benchmarks.run import SCRIPTS, loader_figures, prepare_figures

ROOT = Path(__file__).resolve().parents[1]
SIZES = Sizes(minibatch_size=32, n_vars=60, hidden=(16, 8))


def traced_flops(engine, feeds) -> int:
    """Multiplications and additions of the matrix products that TensorFlow's step runs."""
    import tensorflow as tf

    from medl_scale.train.engine_ranks import part_of
    from medl_scale.train.engine_tensorflow import _inputs, _tensors

    draw = engine.effects.draw(feeds.batch_codes, 1) if engine.effects else None
    effects = {layer: _tensors(pair) for layer, pair in draw.cells.items()} if draw else {}
    number = tf.constant(1.0)
    inputs = _inputs(feeds, effects)
    graph = engine._step.get_concrete_function(inputs, number, number, part_of(feeds)).graph
    # What nothing depends on is pruned before the graph runs.
    wanted = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    seen, total = set(), 0
    while wanted:
        operation = wanted.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        wanted += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
        if operation.type == "MatMul":
            rows, columns = operation.outputs[0].shape
            left = operation.inputs[0].shape
            inner = left[0] if operation.get_attr("transpose_a") else left[1]
            total += 2 * rows * columns * inner
    return total


@pytest.mark.parametrize("model", ["fe", "re", "me"])
def test_counted_flops_are_those_of_the_matrix_products_in_the_traced_step(model):
    case = Case(model, 5)
    network, engine = build(case, SIZES, n_threads=1)
    feeds = random_feeds(network, case, SIZES, seed=0)
    assert matrix_flops(case, SIZES, network.n_latent) == traced_flops(engine, feeds)


def test_a_figure_survives_json_and_knows_whether_its_goal_is_met():
    at_least = Figure(benchmark="step", what="FE", measured=0.7, unit="of peak", at_least=0.65)
    at_most = Figure(benchmark="fit", what="wait", measured=0.2, unit="of step", at_most=0.1)
    plain = dataclasses.replace(at_most, at_most=None)
    assert [figure.is_met for figure in (at_least, at_most, plain)] == [True, False, None]
    assert [figure.goal for figure in (at_least, at_most, plain)] == [">= 0.65", "<= 0.1", ""]
    for figure in (at_least, at_most, plain):
        assert Figure.from_json(figure.to_json()) == figure
    assert json.loads(at_most.to_json(commit="abc"))["commit"] == "abc"


def test_goals_are_set_for_the_loader_of_the_store_s_runs_alone():
    speeds = {"cells_per_cpu_s": 700_000, "median_cells_per_cpu_s": 650_000, "cells_per_s": 9}
    lines = [
        json.dumps({"what": "store", "cells": 10}),
        json.dumps({"what": "runs of 64: loader", **speeds}),
        json.dumps({"what": "runs of 256: loader", **speeds}),
        json.dumps({"what": "runs of 256: loader / annbatch, dense", "median_ratio": 0.9}),
        json.dumps({"what": "peak memory", "bytes": 1}),
    ]
    met = {figure.what: figure.is_met for figure in loader_figures(lines)}
    assert met == {
        "runs of 64: loader": None,
        "runs of 256: loader": True,
        "runs of 256: loader / annbatch, dense": False,
    }


def test_prepare_is_measured_in_cells_per_core_second():
    record = {"cells": 8000, "genes": 50, "density": 0.07, "cells_per_core_s": 7999}
    line = json.dumps(record | {"speed_over_scanpy": 0.5})
    figure, beside = prepare_figures([line])
    assert (figure.what, figure.is_met) == ("8,000 x 50 at 7%", False)
    assert (beside.measured, beside.is_met) == (0.5, None)


SLOW = {
    "fit", "memory", "prepare", "silhouette_exact", "gridded", "two_phase", "lisi", "forest", "project",
    "sketch", "genomap", "step", "workers", "ranks", "what_if",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(script.name, marks=[pytest.mark.slow] if script.name in SLOW else [])
        for script in SCRIPTS
    ],
)
def test_a_quick_run_prints_figures_without_goals_and_leaves_no_history(name):
    history = ROOT / "benchmarks" / "history.jsonl"
    before = history.stat().st_size if history.exists() else None
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--only", name]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    figures = [Figure.from_json(line) for line in ended.stdout.splitlines()]
    assert figures
    assert {figure.benchmark for figure in figures} == {name}
    assert all(figure.measured > 0 and figure.is_met is None for figure in figures)
    assert "All benchmarks" in ended.stderr
    assert (history.stat().st_size if history.exists() else None) == before
