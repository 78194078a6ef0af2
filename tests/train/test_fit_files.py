import pytest

from medl_scale.config import ModelConfig, StreamConfig, TrainConfig
from medl_scale.errors import WorkerLostError
from medl_scale.train.fit_files import FitStatus, FitTask, publisher, read_status


def test_a_fit_that_was_given_to_another_process_ends_when_it_next_tells_its_state(tmp_path):
    task = FitTask(
        ref="atlas.zarr",
        model="re",
        fold=0,
        folder=str(tmp_path),
        latents=str(tmp_path / "latents.zarr"),
        model_config=ModelConfig(),
        train_config=TrainConfig(),
        stream_config=StreamConfig(),
        n_threads=1,
    )
    heard = []
    cut_off = publisher(task, tmp_path, heard.append)
    cut_off(FitStatus("re", 0, "training", epoch=7))
    taken_up = publisher(task, tmp_path, None)
    taken_up(FitStatus("re", 0, "training", epoch=5))
    with pytest.raises(
        WorkerLostError, match=r"Another process has taken over the fit in .*, and this one ends\."
    ):
        cut_off(FitStatus("re", 0, "training", epoch=8))
    assert read_status(tmp_path) == FitStatus("re", 0, "training", epoch=5)
    assert [status.epoch for status in heard] == [7]
    taken_up(FitStatus("re", 0, "training", epoch=6))
    assert read_status(tmp_path).epoch == 6
    assert {one.name for one in tmp_path.iterdir()} == {"owner", "status.json"}
