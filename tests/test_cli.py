"""The commands as users type them: what they print, leave and refuse."""

import json
import resource
import shutil
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest

from medl_scale.cli import app
from tests import tiny
from tests.tiny import FIT, KEYS, MODELS, N_BATCHES, N_CELLS, N_GENES, N_LABELS, medl

# anndata still sets an option of pandas when it copies a view.
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")

COMMANDS = [command.callback.__name__ for command in app.registered_commands]
HEAVY = {
    "anndata", "annbatch", "dask", "distributed", "h5py", "jax", "keras", "matplotlib", "numba",
    "numpy", "pandas", "scanpy", "scipy", "sklearn", "tensorflow", "zarr",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny.made(tmp_path_factory)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Usage errors are drawn into boxes, which must not break the lines that tests look for."""
    monkeypatch.setenv("TERMINAL_WIDTH", "300")


# What a user does first.


def test_two_lines_leave_the_latents_of_every_cell_in_the_atlas(made):
    atlas = ad.read_zarr(made.atlas)
    assert atlas.n_obs == N_CELLS
    assert set(atlas.obsm) == KEYS
    for key in KEYS:
        assert np.isfinite(atlas.obsm[key]).all()
        assert np.ptp(atlas.obsm[key], axis=0).max() > 0
    assert atlas.obsm["X_medl_me"].shape == (N_CELLS, 30)
    assert atlas.obsm["X_medl_fe"].shape == (N_CELLS, 50)
    provenance = atlas.uns["medl_scale_latents"]["X_medl_re"]
    assert provenance["model"] == "re"
    assert provenance["fold"] == 0
    assert provenance["run"] == str(made.run)


def test_fit_prints_a_row_a_fit_and_where_things_are(made):
    rows = [line.split() for line in made.fit.out.splitlines()]
    assert [row[0] for row in rows if row and row[0] in MODELS] == list(MODELS)
    assert f"Latents: {', '.join(sorted(KEYS))}" in made.fit.out
    assert "Training curves: runs/atlas/curves.png" in made.fit.out
    assert (made.run / "curves.png").stat().st_size > 1000


def test_verbose_prints_a_line_an_epoch_with_the_loss_terms(made):
    lines = [line for line in made.fit.err.splitlines() if line.startswith("fit ")]
    assert [line.split("  ")[0] for line in lines] == [
        f"fit {model} fold 0 epoch {epoch}" for model in ("fe", "me", "re") for epoch in (0, 1)
    ]
    assert "train_adversary" in lines[0]
    assert "val_effects_kl" in lines[-1]
    assert "cells/s" in lines[-1]


def test_info_says_what_an_atlas_is(made):
    found = json.loads(medl("info", made.atlas, "--json").out)
    atlas = ad.read_zarr(made.atlas)
    assert found["kind"] == "atlas"
    assert (found["n_obs"], found["n_vars"]) == atlas.shape
    assert found["density"] == pytest.approx(atlas.X.nnz / np.prod(atlas.shape))
    assert found["batches"] == atlas.obs["batch"].value_counts().sort_index().to_dict()
    assert found["labels"] == atlas.obs["cell_type"].value_counts().sort_index().to_dict()
    assert sum(found["folds"]) == N_CELLS
    assert set(found["latents"]) == KEYS
    assert found["provenance"]["n_genes_in"] == N_GENES

    text = medl("info", made.atlas).out
    for part in (
        f"{N_CELLS} x {atlas.n_vars}",
        f"{found['density']:.1%} of counts",
        f"{N_BATCHES}: ",
        f"{N_LABELS}: ",
        "5 parts of ",
        "X_medl_me, ",
        "raw.h5ad",
    ):
        assert part in text


def test_info_says_how_a_run_stands(made):
    found = json.loads(medl("info", made.run, "--json").out)
    assert found["kind"] == "run"
    assert found["atlas"] == str(made.atlas)
    assert [(fit["model"], fit["fold"], fit["state"]) for fit in found["fits"]] == [
        (model, 0, "done") for model in MODELS
    ]
    me = found["fits"][0]
    assert me["n_latent"] == 30
    assert me["epochs"] == 2
    assert me["losses"]["val_total"] > 0
    assert found["settings"]["fit"]["train"]["max_epochs"] == 2
    assert found["environment"]["versions"]["medl-scale"]

    text = medl("info", made.run).out
    assert str(made.atlas) in text
    assert f"total {me['losses']['val_total']:.4g}" in text
    assert f"{me['best_epoch'] + 1}/2" in text


def test_embed_gives_the_training_cells_their_latents_again(made, tmp_path):
    for name in ("out.h5ad", "new folder/out.zarr"):
        ended = medl("embed", made.run, made.raw, "-o", tmp_path / name)
        assert ended.code == 0, ended.err
        assert "Warning" not in ended.err
        assert f"{N_CELLS} cells, {', '.join(sorted(KEYS))}" in ended.out
        read = ad.read_zarr if name.endswith("zarr") else ad.read_h5ad
        again, atlas = read(tmp_path / name), ad.read_zarr(made.atlas)
        assert list(again.obs_names) == list(ad.read_h5ad(made.raw).obs_names)
        for key in KEYS:
            fitted = atlas.obsm[key][np.argsort(atlas.obs["medl_original_row"])]
            np.testing.assert_allclose(again.obsm[key], fitted, atol=1e-5)


# Help.


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    ended = medl(command, "--help")
    assert ended.code == 0
    assert f"Usage: medl-scale {command}" in ended.out


def test_help_answers_at_once_and_loads_nothing_heavy():
    script = (
        "import sys; sys.argv = ['medl-scale', '--help']\n"
        "from medl_scale.cli import main\n"
        "try: main()\n"
        f"finally: print('loaded:', *sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        assert all(command in done.stdout for command in COMMANDS)
        assert done.stderr == "loaded:\n"
    assert min(seconds) < 0.5


# How much is said.


def test_quiet_prints_nothing_not_even_warnings(made, tmp_path):
    new = ad.read_h5ad(made.raw)[:, ::2].copy()
    new.write_h5ad(tmp_path / "new.h5ad")
    out = tmp_path / "out.h5ad"
    embed = ("embed", made.run, tmp_path / "new.h5ad", "-o", out, "--overwrite")
    loud = medl(*embed)
    assert "Warning: 40 of the model's 80 genes are missing" in loud.err
    for command in (
        ("simulate", tmp_path / "s.h5ad", "--cells", 100, "--genes", 30, "--batches", 2),
        ("prepare", made.raw, "-o", tmp_path / "atlas.zarr", *tiny.TO_ATLAS),
        ("fit", tmp_path / "atlas.zarr", "-o", tmp_path / "run", "--models", "pca", *FIT),
        embed,
    ):
        assert medl(*command, "--quiet") == (0, "", "")
    refused = medl(*embed[:-1], "--quiet")
    assert refused.err.startswith(f"Error: {out} exists already.")


def test_log_json_prints_one_object_a_line_whatever_happens(made, tmp_path):
    new = ad.read_h5ad(made.raw)[:, ::2].copy()
    new.write_h5ad(tmp_path / "new.h5ad")
    embed = ("embed", made.run, tmp_path / "new.h5ad", "-o", tmp_path / "out.h5ad", "--log-json")
    commands = {
        "simulate": ("simulate", tmp_path / "s.h5ad", "--cells", 100, "--genes", 30),
        "prepare": ("prepare", made.raw, "-o", tmp_path / "atlas.zarr", *tiny.TO_ATLAS),
        "fit": ("fit", tmp_path / "atlas.zarr", "-o", tmp_path / "run", "--models", "ae", *FIT),
    }
    events = {}
    for name, command in (commands | {"embed": embed, "refused": embed}).items():
        ended = medl(*dict.fromkeys((*command, "--log-json")))
        assert ended.code == (2 if name == "refused" else 0)
        assert ended.out == ""
        events[name] = [json.loads(line) for line in ended.err.splitlines()]
        assert all(event["time"] > 1.7e9 for event in events[name])
    steps = [event["step"] for event in events["prepare"] if event["event"] == "step_end"]
    assert steps[-1] == "writing cells"
    rows = [event for event in events["fit"] if event["event"] == "epoch"]
    assert [(row["fit"], row["epoch"]) for row in rows] == [
        ("fit ae fold 0", 0),
        ("fit ae fold 0", 1),
    ]
    assert rows[0]["train_total"] > 0
    warned = [event for event in events["embed"] if event.get("level") == "warning"]
    assert "40 of the model's 80 genes are missing" in warned[0]["message"]
    assert events["refused"][-1]["level"] == "error"
    assert "exists already" in events["refused"][-1]["message"]


# Settings.


def test_printed_settings_of_fit_are_read_back_and_the_command_line_wins(made, tmp_path):
    options = ("--models", "re,me", "--folds", 3, "--n-latent", 7, "--learning-rate", 0.5,
               "--preset", "medl", "--cache-memory", "1.5MiB", "--seed", 4)  # fmt: skip
    printed = medl("fit", made.atlas, *options, "--print-config").out
    for line in ('models = [\n    "re",\n    "me",\n]', "n_latent = 7", "cache_memory = 1572864"):
        assert line in printed
    file = tmp_path / "settings.toml"
    file.write_text(printed)
    assert medl("fit", made.atlas, "--config", file, "--print-config").out == printed
    other = medl("fit", made.atlas, "--config", file, "--n-latent", 9, "--print-config").out
    assert other == printed.replace("n_latent = 7", "n_latent = 9")


def test_printed_settings_of_prepare_are_read_back(made, tmp_path):
    file = tmp_path / "settings.toml"
    for n_top_genes in (0, 12):
        options = ("--batch-key", "batch", "--n-top-genes", n_top_genes, "--folds", 4)
        printed = medl("prepare", made.raw, *options, "--print-config").out
        assert f"n_top_genes = {n_top_genes}\n" in printed
        file.write_text(printed)
        assert medl("prepare", made.raw, "--config", file, "--print-config").out == printed
    ended = medl("prepare", made.raw, "-o", tmp_path / "atlas.zarr", "--config", file, "--folds", 3)
    assert ended.code == 0, ended.err
    assert "x 12 genes, 4 batches, 0 labels, 3 folds" in ended.out


def test_a_file_can_be_the_batch(made, tmp_path):
    shutil.copy(made.raw, tmp_path / "other.h5ad")
    adata = ad.read_h5ad(made.raw)
    del adata.obs["batch"]
    for name in ("one", "two"):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    inputs = (tmp_path / "one.h5ad", tmp_path / "two.h5ad")
    ended = medl("prepare", *inputs, "-o", tmp_path / "atlas.zarr", "--batch-from-file")
    assert ended.code == 0, ended.err
    atlas = ad.read_zarr(tmp_path / "atlas.zarr")
    assert atlas.obs["batch"].value_counts().to_dict() == {"one": N_CELLS, "two": N_CELLS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fit]\nmax_epoch = 3", "'max_epoch' is not a setting of [fit]."),
        ("[fit.train]\nmax_epoch = 3", "Did you mean 'max_epochs'? Settings: max_epochs, "),
        ("[fit.train]\nmax_epochs = 'many'", "train.max_epochs must be of type int; got 'many'."),
        ("[fit]\ntrain = 3", "[train] must be a section of settings; got 3."),
        (
            "[fit]\nworkers_per_fit = 'all'",
            "fit.workers_per_fit must be of type int or 'auto'; got 'all'.",
        ),
        ("[fit]\nmodels = 'me'", "fit.models must be of type list; got 'me'."),
        (
            "[train]\nmax_epochs = 3",
            "holds 'train', which is no section of settings. Sections: [pr",
        ),
        ("fit = 3", "holds 'fit', which is no section of settings"),
        ("fit", "settings.toml is not valid TOML: "),
        ("[fit.train]\nseed = -1", "seed must be at least 0; got -1."),
    ],
)
def test_wrong_settings_are_named(made, tmp_path, text, message):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    ended = medl("fit", made.atlas, "--config", file)
    assert ended.code == 2
    assert ended.err.startswith("Error: ")
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_a_settings_file_must_be_there(made, tmp_path):
    for path, message in (
        (tmp_path / "no.toml", "no.toml does not exist. Write one with --print-config."),
        (tmp_path, "cannot be read: Is a directory."),
    ):
        ended = medl("fit", made.atlas, "--config", path)
        assert ended.code == 2
        assert message in ended.err


# What is refused.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("frobnicate", "No such command 'frobnicate'."),
        ("fit", "Missing argument 'data'."),
        ("fit ATLAS --max-epoch 3", "No such option: --max-epoch"),
        ("fit ATLAS --max-epochs many", "Invalid value for '--max-epochs'"),
        ("fit ATLAS --preset other", "'other' is not one of 'auto', 'medl', 'scmedal'"),
        ("embed RUN RAW", "Missing option '--output'"),
    ],
)
def test_usage_errors_exit_with_2_and_without_a_traceback(made, args, message):
    places = {"ATLAS": made.atlas, "RUN": made.run, "RAW": made.raw}
    ended = medl(*(places.get(arg, arg) for arg in args.split()))
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "fit ATLAS --models me,xyz",
            "models must be one of 'me', 'fe', 're', 'fec', 'ae', 'aec', ",
        ),
        (
            "fit ATLAS --models ,",
            "models names no model. Choose from me, fe, re, fec, ae, aec, pca.",
        ),
        ("fit ATLAS --models me,me", "models names one twice: me, me."),
        ("fit ATLAS --fold 5", "fold must be one of 0 to 4; got 5."),
        ("fit ATLAS --fold -1", "folds must be different numbers >= 0; got (-1,)."),
        ("fit ATLAS --folds 6", "fold must be one of 0 to 4; got 5."),
        ("fit ATLAS --folds 0", "--folds must be at least 1; got 0."),
        ("fit ATLAS --fold 1 --folds 2", "Give --fold K for one fold or --folds N for the first N"),
        ("fit ATLAS --cache-memory lots", "--cache-memory must be a number of bytes"),
        ("fit ATLAS --cache-memory inf", "--cache-memory must be a number of bytes"),
        ("fit ATLAS --cache-memory -1KiB", "cache_memory must be at least 0; got -1024."),
        ("fit ATLAS --workers 0", "workers must be at least 1; got 0."),
        ("fit ATLAS --learning-rate nan", "learning_rate must be positive; got nan."),
        (
            "fit ATLAS --models pca --fe-rep X_pca",
            "fe_rep freezes the encoder of 'me', which is not",
        ),
        (
            "fit RAW",
            "raw.h5ad is not a prepared atlas. Name the column of obs that holds the batch",
        ),
        (
            "fit NOTHING --batch-key batch",
            "nothing does not exist. Give a prepared atlas, or counts",
        ),
        ("embed RUN RAW -o out.csv", "Latents are written to OUT.h5ad or OUT.zarr; got 'out.csv'."),
        ("embed RUN RAW -o RAW --overwrite", "raw.h5ad is also the input. Choose another -o."),
        (
            "embed RUN RAW -o out.h5ad --models ae",
            "has no finished model ae of fold 0; finished: me, ",
        ),
        ("embed RUN RAW -o out.h5ad --fold 3", "has no finished model at all of fold 3"),
        ("embed RUN RAW -o out.h5ad --layer x", "raw.h5ad has no layer 'x'."),
        ("embed RUN NOTHING -o out.h5ad", "nothing does not exist. Give a .h5ad file"),
        ("embed RUN ATLAS -o out.h5ad", "is a prepared atlas already"),
        ("embed ATLAS RAW -o out.h5ad", "atlas.zarr is not a run: it has no config.toml."),
        ("info RAW", "raw.h5ad is neither a prepared atlas nor a run."),
        ("info NOTHING", "nothing is neither a prepared atlas nor a run."),
        ("prepare RAW -o out.zarr", "name its column of obs with --batch-key."),
        ("prepare RAW --batch-key batch", "name it with --output, such as -o atlas.zarr."),
        ("prepare RAW -o RAW --batch-key batch", "is also an input. Choose another output."),
        (
            "prepare RAW -o ATLAS --batch-key batch",
            "atlas.zarr exists already. Choose another output",
        ),
        ("prepare RAW -o x --batch-key batch --folds 2", "folds must be at least 3; got 2."),
        ("prepare RAW -o x --batch-key batch --layer y", "raw.h5ad has no layer 'y'."),
        ("simulate x.csv", ".zarr"),
        ("simulate x.zarr --cells 3", "12 batches and 8 cell types need at least 24 cells; got 3."),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    made, tmp_path, monkeypatch, args, message
):
    monkeypatch.chdir(tmp_path)
    places = {
        "ATLAS": made.atlas,
        "RUN": made.run,
        "RAW": made.raw,
        "NOTHING": tmp_path / "nothing",
    }
    ended = medl(*(places.get(arg, arg) for arg in args.split()))
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("Error: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _without_batch(adata):
    del adata.obs["batch"]


def _one_batch(adata):
    adata.obs["batch"] = "a"


def _nan_batch(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.iloc[3, adata.obs.columns.get_loc("batch")] = np.nan


def _nan_label(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[[3, 5], adata.obs.columns.get_loc("cell_type")] = np.nan


def _lonely_cell(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    adata.obs.iloc[3, adata.obs.columns.get_loc("batch")] = "lonely"


def _with_count(value):
    def change(adata):
        adata.X = adata.X.astype(np.float32)
        adata.X.data[7] = value

    return change


def _twice(adata):
    adata.var_names = ["gene_a", "gene_a", *adata.var_names[2:]]


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (_without_batch, ["has no obs column 'batch'. There are: 'cell_type', 'library_size'", "--batch-key"]),
        (_one_batch, ["Two batches or more are expected in obs['batch']; there is only 'a'."]),
        (_nan_batch, ["obs['batch'], asked for with --batch-key, is missing (NaN) for 1 of 600 cells"]),
        (_nan_label, ["obs['cell_type'], asked for with --labels-key, is missing (NaN) for 2 of 600"]),
        (_lonely_cell, ["'lonely'", "1"]),
        (_with_count(-1), ["counts must be non-negative integers", "1 negative", "the first -1 in cell"]),
        (_with_count(0.5), ["1 fractional", "--layer", "--input-units"]),
        (_with_count(np.nan), ["1 NaN"]),
        (_twice, ["gene names must be unique", "'gene_a'", "var_names_make_unique()"]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_data_that_cannot_be_used_are_refused_by_prepare(made, tmp_path, change, messages):
    adata = ad.read_h5ad(made.raw)
    change(adata)
    adata.write_h5ad(tmp_path / "bad.h5ad")
    ended = medl("prepare", tmp_path / "bad.h5ad", "-o", tmp_path / "atlas.zarr", *tiny.TO_ATLAS)
    assert ended.code == 2
    assert "Error: " in ended.err
    assert all(message in ended.err for message in messages), ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == [tmp_path / "bad.h5ad"]


def test_a_misspelt_key_is_understood(made, tmp_path):
    ended = medl("prepare", made.raw, "-o", tmp_path / "a.zarr", "--batch-key", "batsch")
    assert ended.code == 2
    assert "There are: 'batch', 'cell_type', 'library_size'. Did you mean 'batch'?" in ended.err
    assert "--batch-key" in ended.err


def test_a_truncated_atlas_is_refused_by_every_command(made, tmp_path):
    atlas = tmp_path / "atlas.zarr"
    shutil.copytree(made.atlas, atlas)
    shard = next(path for path in (atlas / "X" / "data" / "c").rglob("*") if path.is_file())
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    for command in (("info", atlas), ("fit", atlas, "-o", tmp_path / "run", "--models", "pca")):
        ended = medl(*command)
        assert ended.code == 2
        assert "truncated" in ended.err
        assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == [tmp_path / "atlas.zarr"]


def test_a_truncated_input_is_refused(made, tmp_path):
    text = made.raw.read_bytes()
    (tmp_path / "half.h5ad").write_bytes(text[: len(text) // 2])
    ended = medl("prepare", tmp_path / "half.h5ad", "-o", tmp_path / "a.zarr", *tiny.TO_ATLAS)
    assert ended.code == 2
    assert "half.h5ad cannot be read" in ended.err
    assert "fetch it again" in ended.err


def test_a_damaged_run_is_told_from_a_run(made, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for text, message in (
        ("[fit", "config.toml is not valid TOML"),
        ("[tool]\nx = 1", "its config.toml has no section [fit] with models and folds"),
        ("fit = 1", "its config.toml has no section [fit] with models and folds"),
    ):
        (run / "config.toml").write_text(text)
        for command in (
            ("info", run),
            ("embed", run, made.raw, "-o", tmp_path / "out.h5ad"),
            ("fit", made.atlas, "-o", run, "--resume"),
        ):
            ended = medl(*command)
            assert ended.code == 2
            assert message in ended.err
            assert "Traceback" not in ended.err
