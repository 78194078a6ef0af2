"""Checkpoints come back as they were written, or say that they are damaged."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from medl_scale.errors import StoreError
from medl_scale.train.checkpoint import (
    read_arrays,
    read_checkpoint,
    write_arrays,
    write_checkpoint,
)
from tests.store.disks import fill, small_disk

STATES = {
    "now": {"model/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.asarray(7)},
    "best": {"model/a/kernel": np.full((2, 3), np.nan, np.float32)},
}
RECORD = {"epoch": 3, "best": math.inf, "history": [{"val_total": 0.1}], "name": "φ"}

arrays = st.dictionaries(
    st.text("abc/_0", min_size=1, max_size=8),
    npst.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8, "<U3"]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    max_size=4,
)


@given(arrays=arrays, record=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False)))
@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_arrays_and_record_come_back(tmp_path, arrays, record):
    path = tmp_path / "file.npz"
    write_arrays(path, arrays, record)
    found, found_record = read_arrays(path)
    assert found_record == record
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_states_come_back_by_group(tmp_path):
    write_checkpoint(tmp_path / "c.npz", STATES, RECORD)
    states, record = read_checkpoint(tmp_path / "c.npz")
    assert record == RECORD
    assert states.keys() == STATES.keys()
    for group, state in STATES.items():
        assert states[group].keys() == state.keys()
        for name, value in state.items():
            np.testing.assert_array_equal(states[group][name], value)


def test_a_new_checkpoint_takes_the_place_of_the_old_and_leaves_no_litter(tmp_path):
    for epoch in (1, 2):
        write_checkpoint(tmp_path / "c.npz", STATES, {"epoch": epoch})
    assert read_checkpoint(tmp_path / "c.npz")[1] == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


@given(data=st.data())
@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_a_damaged_file_is_told_or_harmless(tmp_path, data):
    path = tmp_path / "damaged.npz"
    write_checkpoint(path, STATES, RECORD)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    else:
        for _ in range(data.draw(st.integers(1, 4), label="bytes")):
            place = data.draw(st.integers(0, len(content) - 1), label="place")
            content[place] ^= data.draw(st.integers(1, 255), label="flip")
    path.write_bytes(content)
    try:
        states, record = read_checkpoint(path)
    except StoreError as error:
        message = str(error)
    else:
        # Zip holds dates and the like that nobody reads.
        assert record == RECORD
        for group, state in STATES.items():
            for name, value in state.items():
                np.testing.assert_array_equal(states[group][name], value)
        return
    assert f"{path} is damaged" in message
    assert "Remove it and fit again" in message


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all" * 100])
def test_another_file_under_its_name_is_told(tmp_path, content):
    path = tmp_path / "c.npz"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"c\.npz is damaged"):
        read_arrays(path)


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    with small_disk(tmp_path, n_bytes=2**20) as disk:
        path = disk / "checkpoint.npz"
        write_checkpoint(path, STATES, RECORD)
        old = path.read_bytes()
        fill(disk, leave_bytes=64 * 2**10)
        large = {"now": {"weights": np.ones(2**17, np.float32)}}
        with pytest.raises(StoreError, match=r"The disk is full while writing .*checkpoint\.npz"):
            write_checkpoint(path, large, RECORD)
        assert path.read_bytes() == old
        assert sorted(entry.name for entry in disk.iterdir()) == ["checkpoint.npz", "filling"]
