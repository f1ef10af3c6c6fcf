"""The same calls on a disk and in an S3 store that fails now and then."""

import pytest

from emo_data import objects
from emo_data.objects import Folder
from tests.s3 import Faults, fault_proxy, s3_environment, s3_server


@pytest.fixture(scope="module")
def store():
    """(endpoint behind the proxy, its faults)."""
    faults = Faults()
    with s3_server() as endpoint, fault_proxy(endpoint, faults) as proxy, s3_environment(proxy):
        import s3fs

        s3fs.S3FileSystem().mkdir("s3://bucket")
        yield faults


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    if request.param == "local":
        return Folder(str(tmp_path / "a [b]*"))
    request.getfixturevalue("store").share = 0.0
    return Folder(f"s3://bucket/{tmp_path.name}/in")


def test_bytes_under_names(folder):
    assert folder.names("x") == [] and not folder.exists() and not folder.exists("x/1")
    folder.write("x/1", b"one")
    folder.write("x/2", b"two")
    folder.write("x/1", b"1")
    assert folder.read("x/1") == b"1" and folder.read_all(["x/2", "x/1"]) == [b"two", b"1"]
    assert folder.names("x") == ["x/1", "x/2"] and folder.exists("x/1") and folder.exists()
    assert folder.create("x/3", b"three") and not folder.create("x/1", b"another")
    assert folder.read("x/1") == b"1"
    with folder.open("x/3") as stream:
        assert stream.seek(1) == 1 and stream.read(2) == b"hr" and stream.read() == b"ee"
    folder.delete(["x/1", "x/2", "x/gone"])
    assert folder.names("x") == ["x/3"]
    for ask in (folder.read, folder.info, folder.open):
        with pytest.raises(FileNotFoundError):
            ask("x/gone")


def test_what_was_written_by_another_is_seen(folder):
    assert folder.names("x") == []
    Folder(folder.url).write("x/1", b"one")
    assert folder.names("x") == ["x/1"] and folder.read("x/1") == b"one"


def test_sources_in_a_store(store, tmp_path):
    store.share = 0.0
    bucket = Folder(f"s3://bucket/{tmp_path.name}")
    for name in ("a.mp4", "deep/b.mp4"):
        bucket.write(name, name.encode() * 1000)
    root = f"s3://bucket/{tmp_path.name}"
    assert objects.found(root) == objects.found(f"{root}/") == [f"{root}/a.mp4", f"{root}/deep/b.mp4"]
    assert objects.found(f"{root}/*.mp4") == objects.found(f"{root}/a.mp4") == [f"{root}/a.mp4"]
    first = objects.stamp(f"{root}/a.mp4")
    assert objects.stamp(f"{root}/a.mp4") == first
    bucket.write("a.mp4", b"b.mp4" * 1000)
    assert objects.stamp(f"{root}/a.mp4") != first
    objects.fetch(f"{root}/a.mp4", tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"b.mp4" * 1000


def test_a_store_that_fails_now_and_then_is_asked_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "_FIRST_WAIT", 0.02)
    monkeypatch.setattr(objects, "_TRIES", 12)
    store.share, store.happened = 0.4, type(store.happened)()
    folder = Folder(f"s3://bucket/{tmp_path.name}/faults")
    try:
        for number in range(12):
            data = bytes([number]) * 200_000
            folder.write(f"x/{number}", data)
            assert folder.read(f"x/{number}") == data
            assert folder.create(f"y/{number}", data)  # also where the answer was lost
            assert not folder.create(f"y/{number}", b"another")
            with folder.open(f"x/{number}") as stream:
                stream.seek(150_000)
                assert stream.read(60_000) == data[150_000:]
        assert len(folder.names("x")) == 12
    finally:
        store.share = 0.0
    kinds = {event.split()[0] for event in store.happened}
    assert kinds == {"503", "reset", "slow", "truncated", "lost"}
