import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medl_scale.errors import OutputExistsError, StoreError
from medl_scale.store.atomic import (
    atomic_directory,
    atomic_file,
    replace_directory,
    sweep_leftovers,
)
from tests.store.disks import small_disk


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write_half_then_fail(scratch: Path) -> None:
    scratch.write_text("half")
    raise RuntimeError("boo")


def write_folder(path: Path, text: str, **options) -> None:
    with atomic_directory(path, **options) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "first").write_text(text)
        (scratch / "inner" / "second").write_text(text)


def test_a_file_appears_only_when_the_block_ends(tmp_path):
    with atomic_file(tmp_path / "out") as scratch:
        scratch.write_text("new")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_text() == "new"
    assert names_in(tmp_path) == ["out"]


def test_a_file_is_as_it_was_when_the_block_raises(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(RuntimeError, match="boo"), atomic_file(tmp_path / "out") as scratch:
        write_half_then_fail(scratch)
    assert (tmp_path / "out").read_text() == "old"
    assert names_in(tmp_path) == ["out"]


def test_a_folder_appears_only_when_the_block_ends_and_makes_its_parents(tmp_path):
    target = tmp_path / "a" / "b"
    with atomic_directory(target) as scratch:
        (scratch / "file").write_text("new")
        assert not target.exists()
    assert (target / "file").read_text() == "new"
    assert names_in(target.parent) == ["b"]


def test_an_existing_folder_is_not_overwritten_unasked(tmp_path):
    write_folder(tmp_path / "out", "old")
    with pytest.raises(OutputExistsError, match=r"out exists already\. Choose another output"):
        write_folder(tmp_path / "out", "new")
    assert (tmp_path / "out" / "first").read_text() == "old"
    write_folder(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "first").read_text() == "new"
    assert names_in(tmp_path) == ["out"]


def test_a_folder_is_as_it_was_when_the_block_raises(tmp_path):
    write_folder(tmp_path / "out", "old")
    with (
        pytest.raises(RuntimeError, match="boo"),
        atomic_directory(tmp_path / "out", overwrite=True) as scratch,
    ):
        write_half_then_fail(scratch / "first")
    assert (tmp_path / "out" / "first").read_text() == "old"
    assert names_in(tmp_path) == ["out"]


def test_a_folder_may_take_the_place_of_a_file(tmp_path):
    (tmp_path / "out").write_text("a file")
    write_folder(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "first").read_text() == "new"
    assert names_in(tmp_path) == ["out"]


def test_a_folder_is_replaced_by_one_from_elsewhere_on_the_disk(tmp_path):
    write_folder(tmp_path / "out", "old")
    write_folder(tmp_path / "deep" / "source", "new")
    replace_directory(tmp_path / "deep" / "source", tmp_path / "out")
    assert (tmp_path / "out" / "inner" / "second").read_text() == "new"
    assert not (tmp_path / "deep" / "source").exists()


def test_leftovers_are_swept_and_what_was_put_aside_comes_back(tmp_path):
    (tmp_path / "a.zarr.medl-tmp-0123").mkdir()
    (tmp_path / "b.medl-tmp-4567").write_text("half")
    (tmp_path / "c.zarr.medl-tmp-old").mkdir()
    (tmp_path / "c.zarr.medl-tmp-old" / "kept").write_text("old")
    (tmp_path / "d.zarr").mkdir()
    (tmp_path / "d.zarr.medl-tmp-old").mkdir()
    sweep_leftovers(tmp_path)
    assert names_in(tmp_path) == ["c.zarr", "d.zarr"]
    assert (tmp_path / "c.zarr" / "kept").read_text() == "old"


def test_a_full_disk_leaves_the_old_file_and_folder(tmp_path):
    with small_disk(tmp_path, n_bytes=1 << 20) as disk:
        (disk / "file").write_text("old")
        write_folder(disk / "folder", "old")
        with (
            pytest.raises(StoreError, match=r"disk is full while writing .*file; what was there"),
            atomic_file(disk / "file") as scratch,
        ):
            scratch.write_bytes(bytes(2 << 20))
        with pytest.raises(StoreError, match=r"disk is full while writing .*folder; what was"):
            write_folder(disk / "folder", "x" * (2 << 20), overwrite=True)
        assert (disk / "file").read_text() == "old"
        assert (disk / "folder" / "inner" / "second").read_text() == "old"
        assert names_in(disk) == ["file", "folder"]


def test_a_read_only_disk_is_named(tmp_path):
    with small_disk(tmp_path, n_bytes=1 << 20) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError, match=r"out cannot be written: .* Choose another output."):
            write_folder(disk / "out", "new")


WRITE_FOR_EVER = """
import itertools, pathlib, sys
from medl_scale.store.atomic import atomic_directory, atomic_file
home = pathlib.Path(sys.argv[1])
for generation in itertools.count():
    text = str(generation) * 1000
    with atomic_file(home / "file") as scratch:
        scratch.write_text(text)
    with atomic_directory(home / "folder", overwrite=True) as scratch:
        for name in "abc":
            (scratch / name).write_text(text)
    print(generation, flush=True)
"""


def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path):
    for delay_ms in (1, 3, 5, 8, 13, 21, 34):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        writer.stdout.readline()
        time.sleep(delay_ms / 1000)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        texts = {(tmp_path / "folder" / name).read_text() for name in "abc"}
        assert len(texts) == 1
        assert names_in(tmp_path / "folder") == ["a", "b", "c"]
        for text in (*texts, (tmp_path / "file").read_text()):
            generation = text[: len(text) // 1000]
            assert text == generation * 1000
        sweep_leftovers(tmp_path)
        assert names_in(tmp_path) == ["file", "folder"]
