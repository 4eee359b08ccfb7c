"""Whatever dies, and whenever: no step below the watermark is lost, none is invented."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from selfalign.data.episode_layout import chunk_file
from selfalign.data.play_store import BadPlayStep, DamagedEpisode, PlayStore, UnknownEpisode
from tests.fakes.play_steps import assert_is_steps, small_spec, step
from tests.selfalign.data import crash_writer

ROOT = Path(__file__).parents[3]
SPEC = small_spec()


@dataclasses.dataclass
class Killed:
    """Writers that died: below root by number, with the steps each was told are durable."""

    root: Path
    durable: dict[int, int]
    numbers: range


def open_store(root, *, resume=()) -> PlayStore:
    return PlayStore(
        root, quota_bytes=10**9, min_free_bytes=0, block_steps=4, resume=frozenset(resume)
    )


def command(mode, root, *more) -> list[str]:
    module = "tests.selfalign.data.crash_writer"
    return [sys.executable, "-m", module, mode, str(root), *map(str, more)]


def run_crashing(mode, root, every) -> tuple[dict[int, int], int]:
    """Return the steps that each writer was told are durable, and the number of instants."""
    line = command(mode, root, every)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    durable = {int(number): int(count) for number, count in lines[:-1]}
    assert lines[-1][0] == "end"
    return durable, int(lines[-1][1])


def left_staged(root, *, steps=8, spec=SPEC) -> Path:
    """Leave an episode in staging as a crash would, and return its path."""
    store = open_store(root)
    writer = store.start_episode(spec)
    for i in range(steps):
        writer.append(step(i, spec))
    writer.flush()
    path = store.open(writer.id).path
    kept = root / "kept"
    shutil.copytree(path, kept)
    writer.abort()
    store.close()
    kept.rename(path)
    return path


# Files are opened and renamed in turn, so every third instant is as often of one kind as the other.
@pytest.fixture(scope="module", params=[3, pytest.param(1, marks=pytest.mark.slow)])
def killed(request, tmp_path_factory) -> Killed:
    """Writers killed at every so many of the instants at which one can die."""
    root = tmp_path_factory.mktemp("killed")
    durable, instants = run_crashing("points", root, request.param)
    return Killed(root, durable, range(1, instants + 1, request.param))


def test_writer_killed_at_any_instant_loses_no_durable_step(tmp_path, killed):
    # Creation, two blocks of four arrays and sealing. Fewer would mean that changes of the file
    # system go unseen here, and the test is weaker than it looks.
    assert killed.numbers.stop > 50
    told, together = {}, tmp_path / "together"
    open_store(together).close()
    for number in killed.numbers:
        for folder in ("staging", "episodes"):
            for path in (killed.root / str(number)).glob(f"{folder}/*"):
                told[path.stem] = killed.durable.get(number, 0)
                shutil.copytree(path, together / folder / path.name)
    # The watermark holds without recovery, too: a reader beside a dead writer sees no gap.
    reader = PlayStore.reader(together)
    for info in reader.episodes():
        rows = reader.open(info.id).read(0, info.length)
        assert_is_steps(rows, 0, info.length, crash_writer.SPEC)
    with open_store(together) as store:
        lengths = {info.id: info.length for info in store.episodes()}
        assert all(info.sealed for info in store.episodes())
        for episode, length in lengths.items():
            assert_is_steps(store.open(episode).read(0, length), 0, length, crash_writer.SPEC)
        assert all(lengths.get(episode, 0) >= count for episode, count in told.items())
        assert set(lengths.values()) == {4, 6}
        assert store.recovery.postponed == ()
        assert list((together / "staging").iterdir()) == []


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_recovery_killed_at_any_instant_can_be_repeated(tmp_path, every):
    master = tmp_path / "master"
    left_staged(master, spec=crash_writer.SPEC)
    copies = 31
    for number in range(1, copies + 1, every):
        shutil.copytree(master, tmp_path / str(number))
    _, instants = run_crashing("recover", tmp_path, every)
    assert 10 < instants < copies
    for number in range(1, instants + 1, every):
        with open_store(tmp_path / str(number)) as store:
            (info,) = store.episodes()
            assert (info.length, info.sealed, info.recovered) == (8, True, True)
            assert_is_steps(store.open(info.id).read(0, 8), 0, 8, crash_writer.SPEC)


def test_writer_killed_from_outside_loses_no_durable_step(tmp_path):
    with subprocess.Popen(
        command("endless", tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        told = 0
        for line in child.stdout:
            told = int(line.split()[1])
            if told >= 60:
                child.kill()
                break
    with open_store(tmp_path) as store:
        (info,) = store.episodes()
        assert info.length >= told
        assert_is_steps(store.open(info.id).read(0, info.length), 0, info.length, crash_writer.SPEC)


def test_reader_beside_a_writer_sees_only_whole_steps(tmp_path):
    with subprocess.Popen(
        command("staged", tmp_path),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        reader = PlayStore.reader(tmp_path).open(child.stdout.readline().strip())
        assert not reader.sealed
        assert reader.length == 40
        assert_is_steps(reader.read(0, 40), 0, 40, crash_writer.SPEC)
        child.stdin.write("go on\n")
        child.stdin.flush()
        sealed = False
        while not sealed:
            sealed = reader.sealed
            length = reader.length
            start = max(0, length - 12)
            assert_is_steps(reader.read(start, length), start, length, crash_writer.SPEC)
        assert reader.length == 120
    assert_is_steps(reader.read(0, 120), 0, 120, crash_writer.SPEC)


def test_report_says_what_became_of_what(tmp_path):
    sealed = left_staged(tmp_path)
    bare = tmp_path / "staging" / "20200101T000000000-aaaaaa.zarr"
    bare.mkdir()
    odd = tmp_path / "staging" / "20200101T000000000-bbbbbb.zarr"
    (odd / "state").mkdir(parents=True)
    (odd / "state" / "c.0.0").write_bytes(b"data that nobody knows")
    (tmp_path / "staging" / "stray").write_text("a file")
    with open_store(tmp_path) as store:
        assert store.recovery.sealed == (sealed.stem,)
        assert store.recovery.quarantined == (odd.stem,)
        assert sorted(store.recovery.discarded) == [bare.stem, "stray"]
        assert (tmp_path / "quarantine" / odd.name / "state" / "c.0.0").exists()
        assert store.used_bytes() > store.episodes()[0].bytes
    with open_store(tmp_path) as store:
        assert store.recovery.sealed == store.recovery.quarantined == ()


# Zeros in raw images cannot be told from black frames: that is what `fsync_blocks` is for.
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images/front", "missing"),
        ("images/wrist", "empty"),
        ("state", "missing"),
        ("state", "zeros"),
        ("action", "empty"),
        ("t_ns", "zeros"),
    ],
)
def test_block_that_a_power_cut_took_is_cut_off(tmp_path, name, damage):
    path = left_staged(tmp_path)
    file = chunk_file(path, name, 1)
    size = file.stat().st_size
    file.unlink()
    if damage != "missing":
        file.write_bytes(b"" if damage == "empty" else bytes(size))
    with open_store(tmp_path) as store:
        (info,) = store.episodes()
        assert (info.length, info.recovered) == (4, True)
        assert_is_steps(store.open(info.id).read(0, 4), 0, 4, SPEC)


def test_episode_whose_first_block_is_damaged_is_quarantined(tmp_path):
    path = left_staged(tmp_path)
    chunk_file(path, "state", 0).write_bytes(b"")
    with open_store(tmp_path) as store:
        assert store.recovery.quarantined == (path.stem,)
        assert store.episodes() == []
        with pytest.raises(UnknownEpisode):
            store.open(path.stem)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_episode_without_its_record_is_quarantined_not_deleted(tmp_path, text):
    path = left_staged(tmp_path)
    (path / "zarr.json").write_text(text)
    with open_store(tmp_path) as store:
        assert store.recovery.quarantined == (path.stem,)
        assert chunk_file(tmp_path / "quarantine" / path.name, "state", 1).exists()


def test_episode_under_a_wrong_name_is_quarantined(tmp_path):
    path = left_staged(tmp_path)
    path.rename(path.with_name("20200101T000000000-moved.zarr"))
    with open_store(tmp_path) as store:
        assert store.recovery.quarantined == ("20200101T000000000-moved",)


def test_times_that_do_not_rise_end_the_whole_steps(tmp_path):
    path = left_staged(tmp_path)
    times = zarr.open_array(path / "t_ns", mode="r+")
    times[6] = times[5]
    with open_store(tmp_path) as store:
        assert store.episodes()[0].length == 4


def test_sealed_episode_without_its_record_is_quarantined(tmp_path):
    with open_store(tmp_path) as store:
        writer = store.start_episode(SPEC)
        writer.append(step(0, SPEC))
        path = store.open(writer.seal().id).path
    (path / "zarr.json").unlink()
    with pytest.raises(DamagedEpisode, match=r"zarr\.json"):
        PlayStore.reader(tmp_path).open(path.stem)
    with open_store(tmp_path) as store:
        assert store.recovery.quarantined == (path.stem,)


def test_two_of_one_name_in_quarantine_are_both_kept(tmp_path):
    for _ in range(2):
        odd = tmp_path / "staging" / "x.zarr" / "t_ns"
        odd.mkdir(parents=True)
        (odd / "c.0").write_text("data")
        open_store(tmp_path).close()
    assert len(list((tmp_path / "quarantine").iterdir())) == 2


def test_leftovers_of_writes_and_deletions_are_removed(tmp_path):
    path = left_staged(tmp_path)
    (path / "state" / "c.1.77.partial").write_text("half a chunk")
    doomed = tmp_path / "trash" / "old.zarr"
    doomed.mkdir()
    (doomed / "zarr.json").write_text("{}")
    with open_store(tmp_path):
        assert not list(tmp_path.rglob("*.partial"))
        assert list((tmp_path / "trash").iterdir()) == []


def test_instructions_beyond_the_cut_are_dropped(tmp_path):
    path = left_staged(tmp_path, steps=16)
    chunk_file(path, "t_ns", 2).unlink()
    with open_store(tmp_path) as store:
        (info,) = store.episodes()
        assert store.open(info.id).read(0, 8).instructions == ("touch the red cube",) * 8


def test_recovery_that_the_disk_refuses_is_put_off(tmp_path):
    import resource

    path = left_staged(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with open_store(tmp_path) as store:
            assert store.recovery.postponed == (path.stem,)
            assert_is_steps(store.open(path.stem).read(0, 8), 0, 8, SPEC)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with open_store(tmp_path) as store:
        assert store.recovery.sealed == (path.stem,)


# Going on with what was open.


@pytest.mark.parametrize("steps", [0, 4, 6, 9])
def test_resumed_episode_goes_on_at_its_watermark(tmp_path, steps):
    path = left_staged(tmp_path, steps=steps)
    with open_store(tmp_path, resume=[path.stem]) as store:
        assert store.recovery.resumable == (path.stem,)
        writer = store.resume_episode(path.stem)
        assert (writer.received, writer.durable) == (steps, steps)
        for i in range(steps, 15):
            writer.append(step(i, SPEC))
        info = writer.seal()
        assert (info.id, info.length, info.recovered) == (path.stem, 15, False)
        assert_is_steps(store.open(info.id).read(0, 15), 0, 15, SPEC)
        assert store.used_bytes() == info.bytes


def test_resumed_episode_writes_black_frames_too(tmp_path):
    spec = SPEC.model_copy(update={"cameras": SPEC.cameras[:1]})
    path = left_staged(tmp_path, steps=4, spec=spec)
    with open_store(tmp_path, resume=[path.stem]) as store:
        writer = store.resume_episode(path.stem)
        black = {"front": np.zeros((6, 8, 3), np.uint8)}
        for i in range(4, 8):
            seen = dataclasses.replace(step(i, spec).observation, images=black)
            writer.append(dataclasses.replace(step(i, spec), observation=seen))
        assert not store.open(path.stem).read(4, 8).images["front"].any()


def test_resumed_episode_refuses_times_it_has_already(tmp_path):
    path = left_staged(tmp_path, steps=6)
    with open_store(tmp_path, resume=[path.stem]) as store:
        writer = store.resume_episode(path.stem)
        with pytest.raises(BadPlayStep, match="start a new episode"):
            writer.append(step(5, SPEC))
        assert writer.append(step(6, SPEC)) == 6


def test_resumed_episode_is_cut_to_its_whole_steps(tmp_path):
    path = left_staged(tmp_path)
    chunk_file(path, "action", 1).unlink()
    with open_store(tmp_path, resume=[path.stem]) as store:
        writer = store.resume_episode(path.stem)
        assert (writer.received, store.open(path.stem).length) == (4, 4)


def test_only_what_was_named_is_left_open(tmp_path):
    named, other = left_staged(tmp_path), None
    kept = tmp_path / "elsewhere"
    named.rename(kept)
    other = left_staged(tmp_path)
    kept.rename(named)
    with open_store(tmp_path, resume=[named.stem, "20200101T000000000-absent"]) as store:
        assert store.recovery.resumable == (named.stem,)
        assert store.recovery.sealed == (other.stem,)
        for name in (other.stem, "20200101T000000000-absent", "../x"):
            with pytest.raises(UnknownEpisode, match="waiting to be resumed"):
                store.resume_episode(name)


def test_episode_is_resumed_once(tmp_path):
    path = left_staged(tmp_path)
    with open_store(tmp_path, resume=[path.stem]) as store:
        writer = store.resume_episode(path.stem)
        with pytest.raises(UnknownEpisode):
            store.resume_episode(path.stem)
        writer.seal()
        with pytest.raises(UnknownEpisode):
            store.resume_episode(path.stem)


def test_what_is_not_resumed_after_all_waits_for_the_next_start(tmp_path):
    path = left_staged(tmp_path)
    with open_store(tmp_path, resume=[path.stem]) as store:
        assert store.used_bytes() > 0
        assert not store.episodes()[0].sealed
    with open_store(tmp_path) as store:
        assert store.recovery.sealed == (path.stem,)


def test_episode_can_be_resumed_after_a_crash_at_any_instant(tmp_path, killed):
    staged = {
        path.stem: (path, number)
        for number in killed.numbers
        for path in (killed.root / str(number)).glob("staging/*")
    }
    (tmp_path / "staging").mkdir()
    for path, _ in staged.values():
        shutil.copytree(path, tmp_path / "staging" / path.name)
    with open_store(tmp_path, resume=staged) as store:
        for episode in store.recovery.resumable:
            writer = store.resume_episode(episode)
            assert writer.durable >= killed.durable.get(staged[episode][1], 0)
            for i in range(writer.durable, 7):
                writer.append(step(i, crash_writer.SPEC))
            writer.seal()
            assert_is_steps(store.open(episode).read(0, 7), 0, 7, crash_writer.SPEC)
        # All but those that died before the record was there or after it was sealed.
        assert len(store.recovery.resumable) > len(killed.numbers) / 3
