"""A writer commits, or erases, between two reads of somebody who opens the index."""

import threading

import numpy as np
import pytest

import nearsearch as ns
from nearsearch.errors import CorruptFileError, GenerationNotKeptError
from nearsearch.store import fs, snapshot
from nearsearch.store import manifest as manifests

CODES = np.random.default_rng(0).integers(0, 256, (40, 32), np.uint8)


@pytest.fixture
def root(tmp_path):
    with ns.Writer.open(tmp_path / "i.ns", create=True) as writer:
        for i in range(4):
            writer.add_codes(CODES[5 * i :][:5], contribution=f"c{i}")
            writer.commit()
    return tmp_path / "i.ns"


def erase(root):
    with ns.Writer.open(root) as writer:
        writer.remove(contribution="c0", erase=True)


def commit_often(root):
    with ns.Writer.open(root) as writer:
        for i in range(9):
            writer.add_codes(CODES[20 + i : 21 + i])
            writer.commit()


@pytest.fixture
def after(monkeypatch):
    """``after(module, name, act)``: act once, after the first call of a function."""

    def hook(module, name, act):
        real = getattr(module, name)

        def call(*arguments, **options):
            answer = real(*arguments, **options)
            monkeypatch.setattr(module, name, real)
            act()
            return answer

        monkeypatch.setattr(module, name, call)

    return hook


WINDOWS = [(manifests, "read_pointer"), (snapshot, "hold"), (fs, "size_of"), (fs, "map_file")]
MOMENTS = pytest.mark.parametrize(("module", "name"), WINDOWS, ids=[n for _, n in WINDOWS])


@MOMENTS
@pytest.mark.parametrize("act", [erase, commit_often])
def test_opening(root, after, module, name, act):
    after(module, name, lambda: act(root))
    with ns.Index.open(root) as index:
        found = index.search(CODES[:1], 256).to_arrow()["contribution"].to_pylist()
        if act is erase and index.generation > 4:
            assert "c0" not in found
    assert ns.verify(root) == []


@MOMENTS
def test_refreshing(root, after, module, name):
    with ns.Index.open(root) as index:
        with ns.Writer.open(root) as writer:
            writer.add_codes(CODES[30:31])
        after(module, name, lambda: erase(root))
        assert index.refresh()
        index.refresh()
        assert "c0" not in index.contributions()["contribution"].to_pylist()


@MOMENTS
@pytest.mark.parametrize("act", [erase, commit_often])
def test_an_earlier_generation(root, after, module, name, act):
    after(module, name, lambda: act(root))
    try:
        with ns.Index.open(root, generation=3) as index:
            assert len(index.search(CODES, 0)) == 15
    except GenerationNotKeptError:
        pass


@pytest.mark.parametrize("act", [erase, commit_often])
def test_checking_every_byte(root, after, act):
    after(snapshot, "problem_of", lambda: act(root))
    with ns.Index.open(root, check="full") as index:
        assert index.generation >= 4
    after(fs, "checksum", lambda: act(root))
    assert ns.verify(root) == []


@pytest.mark.parametrize("act", [erase, commit_often])
def test_waiting_to_write(root, after, act):
    after(manifests, "read_pointer", lambda: act(root))
    with ns.Writer.open(root, wait=5) as writer:
        assert writer.generation > 4


def test_damage_is_still_damage(root, monkeypatch):
    """Whatever else goes on, a file that is not whole is an error and not tried for ever."""
    manifest = manifests.read_current(root)
    (root / manifest.shards[-1].files["items"].name).write_bytes(b"")
    real, tries = snapshot.hold, []

    def hold(root, generation):
        manifest, held, pointer, live = real(root, generation)
        tries.append(live)
        return manifest, held, pointer, live._replace(sha256="another was live then")

    monkeypatch.setattr(snapshot, "hold", hold)
    with pytest.raises(CorruptFileError):
        ns.Index.open(root)
    assert len(tries) == 10


def test_creating_where_another_one_gives_up(tmp_path):
    root = tmp_path / "i.ns"
    first = ns.Writer.open(root, create=True)
    told, done = threading.Event(), []

    def wait():
        with ns.Writer.open(root, create=True, wait=20, on_wait=lambda _: told.set()) as writer:
            writer.add_codes(CODES[:1])
            done.append(writer.commit())

    thread = threading.Thread(target=wait)
    thread.start()
    assert told.wait(10)
    first.close()
    thread.join()
    assert done == [1]


def test_readers_while_somebody_erases_again_and_again(root):
    """Unpatched: opening, verifying and asking go on while files vanish under them."""
    stop, errors = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                with ns.Index.open(root) as index:
                    index.search(CODES[:2], 256).to_arrow()
                    index.refresh()
                assert ns.verify(root) == []
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(40):
        with ns.Writer.open(root) as writer:
            writer.add_codes(CODES[i : i + 1], contribution="new", keys=[f"n{i}"])
            writer.commit()
            writer.remove(keys=[f"n{i}"], erase=True)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
