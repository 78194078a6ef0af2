from pathlib import Path

import pytest

from medl_scale.errors import ConfigError
from medl_scale.store.places import absolute, as_place, is_url, join, local_path, name_of


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("atlas.zarr", "atlas.zarr"),
        (Path("/data/atlas.zarr"), "/data/atlas.zarr"),
        ("file:///data/atlas.zarr", "/data/atlas.zarr"),
        (Path("file:///data/atlas.zarr"), "/data/atlas.zarr"),
        ("s3://bucket/atlas.zarr", "s3://bucket/atlas.zarr"),
        ("s3://bucket/atlas.zarr/", "s3://bucket/atlas.zarr"),
        (Path("s3://bucket/atlas.zarr"), "s3://bucket/atlas.zarr"),
        (Path("gs://bucket/a") / "atlas.zarr", "gs://bucket/a/atlas.zarr"),
        ("C:/data/atlas.zarr", "C:/data/atlas.zarr"),
        ("a:b/atlas.zarr", "a:b/atlas.zarr"),
    ],
)
def test_a_place_is_text_that_keeps_its_slashes(given, place):
    assert as_place(given) == place


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket/atlas.zarr", True),
        (Path("s3://bucket/atlas.zarr"), True),
        ("memory://atlas.zarr", True),
        ("file:///atlas.zarr", False),
        ("runs/atlas", False),
        (3, False),
    ],
)
def test_a_url_is_told_from_a_path(given, expected):
    assert is_url(given) is expected


def test_places_are_named_joined_and_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_of("s3://bucket/a/atlas.zarr/") == name_of("a/atlas.zarr/") == "atlas.zarr"
    assert join("s3://bucket/atlas.zarr", "obsm", "X") == "s3://bucket/atlas.zarr/obsm/X"
    assert join("atlas.zarr", "obsm", "X") == "atlas.zarr/obsm/X"
    assert absolute("s3://bucket/atlas.zarr") == "s3://bucket/atlas.zarr"
    assert absolute("atlas.zarr") == str(tmp_path / "atlas.zarr")


def test_an_output_that_cannot_lie_at_a_url_is_refused_there():
    assert local_path("file:///data/run", "A run") == Path("/data/run")
    with pytest.raises(
        ConfigError,
        match=r"A run is written to a folder, not to a URL; got s3://bucket/run\. Choose",
    ):
        local_path(Path("s3://bucket/run"), "A run")
