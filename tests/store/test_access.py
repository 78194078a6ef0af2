import sys

import fsspec
import numpy as np
import pytest
import zarr

from medl_scale.errors import ConfigError, MissingExtraError, StoreError
from medl_scale.store.access import (
    exists,
    file_sizes,
    folders_in,
    has_file,
    named_errors,
    open_array,
    open_group,
    read_file,
    zarr_store,
)
from medl_scale.store.places import join


def write_store(place):
    """A group with two arrays and a group inside."""
    root = zarr.open_group(zarr_store(place, read_only=False), mode="w", zarr_format=3)
    root.create_array("a", data=np.arange(7))
    root.create_group("b").create_array("c", data=np.ones((2, 3)))


@pytest.fixture(params=["a path", "memory://", "s3://"])
def place(request, tmp_path):
    """A store on disk and at URLs: all must answer alike."""
    if request.param == "a path":
        place = str(tmp_path / "store.zarr")
    elif request.param == "memory://":
        place = f"memory://{tmp_path.name}/store.zarr"
    else:
        place = f"{request.getfixturevalue('s3').bucket()}/some/store.zarr"
    write_store(place)
    return place


def test_a_store_answers_alike_wherever_it_lies(place):
    assert exists(place)
    assert exists(join(place, "b"))
    assert not exists(join(place, "nothing"))
    assert has_file(place, "a/zarr.json")
    assert not has_file(place, "a")
    assert not has_file(place, "a/nothing")
    assert folders_in(place) == ["a", "b"]
    assert folders_in(join(place, "nothing")) == []
    sizes = file_sizes(place)
    assert sorted(sizes) == ["a/c/0", "a/zarr.json", "b/c/c/0/0", "b/c/zarr.json", "b/zarr.json", "zarr.json"]  # fmt: skip
    assert sizes["a/zarr.json"] == len(read_file(place, "a/zarr.json"))
    assert read_file(place, "nothing") is None
    assert np.array_equal(open_array(join(place, "a"))[:], np.arange(7))
    assert open_group(place)["b/c"].shape == (2, 3)


def test_what_another_process_adds_is_seen_at_once(s3):
    url = f"{s3.bucket()}/store.zarr"
    write_store(url)
    assert folders_in(url) == ["a", "b"]
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    s3.client().put_object(Bucket=bucket, Key=f"{prefix}/new/zarr.json", Body=b"{}")
    assert folders_in(url) == ["a", "b", "new"]
    assert has_file(url, "new/zarr.json")


def test_a_kind_of_storage_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match=r"foo://a/b is no URL that can be opened: .*foo\. Give"):
        exists("foo://a/b")


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_a_missing_package_comes_with_its_install_line(monkeypatch, scheme, extra):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'medl-scale\[{extra}\]'"):
        exists(f"{scheme}://bucket/atlas.zarr")


def test_an_endpoint_that_does_not_answer_is_named_with_the_url(monkeypatch):
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    message = r"s3://bucket/atlas\.zarr cannot be reached \(EndpointConnectionError.*credentials"
    for ask in (exists, file_sizes, lambda url: read_file(url, "zarr.json")):
        with pytest.raises(StoreError, match=message):
            ask("s3://bucket/atlas.zarr")


def test_damage_is_told_from_a_server_that_refuses():
    url = "s3://bucket/atlas.zarr"
    for error in (ValueError("no JSON"), FileNotFoundError("gone"), KeyError("obs")):
        with pytest.raises(StoreError, match="truncated or damaged"), named_errors(url):
            raise error
    for error in (PermissionError("Forbidden"), TimeoutError("late"), ConnectionResetError("cut")):
        with pytest.raises(StoreError, match=r"cannot be reached \("), named_errors(url):
            raise error
    # On disk every such error is one of the store.
    with pytest.raises(StoreError, match="truncated or damaged"), named_errors("atlas.zarr"):
        raise PermissionError("Forbidden")
