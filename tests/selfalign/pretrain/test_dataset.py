"""Stage 1 from a model directory, and on a LeRobotDataset: the dummy model, a handful of frames."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("av") is None:
    pytest.skip("pyarrow or PyAV is not installed", allow_module_level=True)

from selfalign.align.robot_io import RobotIO
from selfalign.cli import main
from selfalign.data.lerobot import LeRobotDataset
from selfalign.data.observation import Observation
from selfalign.data.spec import RobotSpec
from selfalign.errors import ModelError, StoreError
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.config import ModelConfig, dummy_config
from selfalign.model.policy import Policy
from selfalign.pretrain.config import PretrainConfig, Stage1Config
from selfalign.pretrain.dataset import DatasetSource, Numbering, open_dataset
from selfalign.pretrain.dataset_frames import DatasetFrames
from selfalign.pretrain.geometries import micro_config
from selfalign.pretrain.inner_loop import InnerLoop
from selfalign.pretrain.loader import ReadAhead
from selfalign.pretrain.start import policy_of, recorded
from tests.fakes.lerobot_dataset import Written, action_of
from tests.fakes.models import random_policy

CAMERAS = ("observation.images.front", "observation.images.wrist")
WRITTEN = Written(lengths=(7, 8, 9, 8), as_video=False, cameras=CAMERAS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITTEN.write(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("init")
    save_policy(random_policy(), directory)
    return directory


def make_config(init: Path, dataset: Path | None, **stage1: float) -> PretrainConfig:
    settings = {
        "iterations": 3, "slots": 3, "slots_per_iteration": 2, "transitions": 2, "demo_frames": 2,
        "lifetime": 1.5,
    }  # fmt: skip
    return PretrainConfig(
        name="micro",
        model=dummy_config(),
        init=str(init),
        data=None if dataset is None else str(dataset),
        stage1=Stage1Config(**(settings | stage1)),
        log_every=1,
        evaluate_every=100,
        checkpoint_every=1,
    )


@pytest.fixture
def source(init: Path, dataset: Path, tmp_path: Path) -> DatasetSource:
    config = make_config(init, dataset)
    return open_dataset(config, tmp_path, policy_of(config))


def test_command_trains_the_trunk_on_a_dataset_and_leaves_vision_and_prefix(
    init: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, spec, run = tmp_path / "short.toml", tmp_path / "robot.yaml", tmp_path / "run"
    config.write_text(
        'name = "short"\nlog_every = 1\n[stage1]\niterations = 3\nslots = 2\n'
        "slots_per_iteration = 1\ntransitions = 2\ndemo_frames = 2\n"
    )
    spec.write_text(LeRobotDataset(dataset).spec.to_yaml())
    start = ["--init", str(init), "--data", str(dataset), "--spec", str(spec)]
    assert main(["pretrain", "--config", str(config), "--run", str(run), *start]) == 0
    assert f"model written to {run / 'model'}" in capsys.readouterr().out

    before, after = load_policy(init).state_dict(), load_policy(run / "model").state_dict()
    frozen = [n for n in before if n.startswith(("vision.tower", "language.", "embed_tokens."))]
    assert frozen
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    for name in ("w0_W1", "action.layers.0.ttt.q_proj.weight", "alignment.queries"):
        assert not torch.equal(before[name], after[name]), name
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "action" in line] == [1, 2, 3]
    keys = {key for line in lines for key in line}
    for name in ("own_numbers", "renumbered"):
        assert f"held_out/{name}/50/action_error" in keys
    for line in lines:
        assert all(np.isfinite(v) for v in line.values() if isinstance(v, float))
    held = json.loads((run / "config.json").read_text())
    assert held["init_sha256"] == load_policy(init).base_sha256
    assert (held["init"], held["data"], held["spec"]) == (str(init), str(dataset), str(spec))


def make_loop(config: PretrainConfig, run: Path) -> InnerLoop:
    policy = policy_of(config)
    return InnerLoop(config.stage1, config.seed, policy, open_dataset(config, run, policy))


def test_stopped_run_goes_on_bit_for_bit(init: Path, dataset: Path, tmp_path: Path) -> None:
    config = make_config(init, dataset)
    whole, stopped = (make_loop(config, tmp_path / name) for name in ("whole", "parts"))
    for iteration in range(3):
        whole.step(iteration)
    for iteration in range(2):
        stopped.step(iteration)
    stopped.save(tmp_path / "parts", 2)
    resumed = make_loop(config, tmp_path / "parts")
    assert resumed.resume(tmp_path / "parts") == 2
    resumed.step(2)
    expected = whole.policy.state_dict()
    for name, tensor in resumed.policy.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not torch.equal(expected["w0_W1"], policy_of(config).w0_W1)


def test_run_does_not_go_on_from_another_model_or_on_other_data(
    init: Path, dataset: Path, tmp_path: Path
) -> None:
    save_policy(random_policy(), tmp_path / "init")
    config = make_config(tmp_path / "init", dataset)
    began = recorded(config, tmp_path)
    assert began.init_sha256 == load_policy(tmp_path / "init").base_sha256
    (tmp_path / "stage1_state.safetensors").touch()
    assert recorded(config, tmp_path) == began
    with pytest.raises(ModelError, match=rf"was begun with init .*init, not {init}"):
        recorded(make_config(init, dataset), tmp_path)
    with pytest.raises(ModelError, match=rf"was begun with data {dataset}, not None"):
        recorded(make_config(tmp_path / "init", None), tmp_path)
    save_policy(random_policy(seed=1), tmp_path / "init")
    with pytest.raises(ModelError, match=rf"begun with init_sha256 {began.init_sha256}, not"):
        recorded(config, tmp_path)


def test_start_has_every_weight_of_the_model_and_can_be_trained(init: Path) -> None:
    policy, held = policy_of(make_config(init, None)), load_policy(init)
    for name, tensor in held.state_dict().items():
        assert torch.equal(policy.state_dict()[name], tensor), name
    assert all(parameter.requires_grad for parameter in policy.parameters())
    with pytest.raises(ModelError, match="still in training"):
        _ = policy.base_sha256


def test_other_geometry_is_refused_by_field(init: Path) -> None:
    config = make_config(init, None)
    wider = config.model.model_copy(
        update={"horizon": 8, "vision": config.model.vision.model_copy(update={"depth": 2})}
    )
    with pytest.raises(
        ModelError, match=r"another geometry .*vision.depth is 1, not 2; horizon is 4, not 8"
    ):
        policy_of(config.model_copy(update={"model": wider}))


def test_geometry_comes_from_the_model_where_the_file_has_none(init: Path, tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text('name = "short"\n')
    held = ModelConfig.load(init / "config.json")
    config = PretrainConfig.load(file, model=held, init=str(init))
    assert config.model == held
    with pytest.raises(ModelError, match=r"takes that of --init"):
        PretrainConfig.load(file)
    with pytest.raises(
        ModelError, match=r"^a dataset trains a model that can see already: give --init"
    ):
        PretrainConfig.load(file, model=held, data="x")


@pytest.mark.parametrize("flavour", ["pi0", "pi05"])
def test_other_limits_are_refused_where_they_cannot_be(flavour: str, tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text('name = "limits"\n[stage1]\nother_limits = 0.5\n')
    start = {"data": "x", "init": "y"} if flavour == "pi0" else {}
    with pytest.raises(ModelError, match=r"other_limits needs the simulator's play"):
        PretrainConfig.load(file, model=micro_config(flavour), **start)
    if flavour == "pi0":
        assert PretrainConfig.load(file, model=micro_config()).stage1.other_limits == 0.5


def test_transition_holds_prefix_actions_and_feature_of_its_rows(
    source: DatasetSource, init: Path, dataset: Path
) -> None:
    frames, io = source.frames, RobotIO(load_policy(init), LeRobotDataset(dataset).spec)
    io.policy.vision.readout.spread.copy_(source.policy.vision.readout.spread)
    embodiment = source.draw(1, 1, 1.0, Stage1Config())
    batch = source.transitions([embodiment], np.random.default_rng(0), 6, "support")
    rows = np.random.default_rng(0).choice(embodiment.support, 6)
    for index, row in enumerate(rows):
        episode = next(e for e, (first, last) in enumerate(frames.episodes) if first <= row < last)
        start = np.array([row - frames.episodes[episode][0]])
        expected = io.transitions(LeRobotDataset(dataset).read(episode), start)
        assert torch.equal(batch.state[index], expected.state[0])
        assert torch.equal(batch.actions[index], expected.actions[0])
        assert torch.equal(batch.action_mask[index], expected.action_mask[0])
        assert torch.equal(batch.state_mask[index], expected.state_mask[0])
        close = {"atol": 2e-3, "rtol": 2e-3}  # prefixes are kept as half floats
        got = batch.now.key_values[index]
        torch.testing.assert_close(got, expected.now.key_values[0], **close)
        got = batch.feature_change[index]
        torch.testing.assert_close(got, expected.feature_change[0], **close)


def test_targets_of_a_dataset_are_seen_by_their_changes(
    source: DatasetSource, dataset: Path
) -> None:
    plain = LeRobotDataset(dataset).spec
    names = [dimension.name for dimension in plain.action]
    marks = {"max_step": [0.5, None, None], "targets": names[:1]}
    spec = RobotSpec.from_mapping(plain.model_dump(mode="json") | marks)
    targets = DatasetSource(source.policy, source.frames, spec)
    embodiment = targets.draw(1, 1, 1.0, Stage1Config())
    rows = np.concatenate([embodiment.support, embodiment.query])
    begins = {first for first, _ in source.frames.episodes}
    # Nothing is known before the first frame of an episode.
    assert begins.isdisjoint({*rows.tolist(), *embodiment.chunks.tolist()})
    assert {row + 1 for row in begins} & {*rows.tolist()}
    chunk = targets.demonstrations([embodiment], np.random.default_rng(0), 5)[2]
    drawn = np.random.default_rng(0).choice(embodiment.chunks, 5)
    for index, row in enumerate(drawn):
        wanted = np.diff(source.frames.action[row - 1 : row + 4, 0]) / 0.5
        np.testing.assert_allclose(chunk[index, :, 0], wanted, rtol=1e-4, atol=1e-4)


def test_chunk_is_what_was_sent_from_the_frame_on(source: DatasetSource, init: Path) -> None:
    embodiment = source.draw(1, 1, 1.0, Stage1Config())
    prefix, state, chunk, mask = source.demonstrations([embodiment], np.random.default_rng(0), 5)
    raw = source.io.numbers.raw_actions(chunk.numpy(), np.zeros((5, 3), np.float32))
    rows = np.random.default_rng(0).choice(embodiment.chunks, 5)
    for index, row in enumerate(rows):
        episode, (first, last) = next(
            (e, span) for e, span in enumerate(source.frames.episodes) if span[0] <= row < span[1]
        )
        assert row + 4 <= last
        expected = [action_of(episode, row - first + i) for i in range(4)]
        np.testing.assert_allclose(raw[index], expected, rtol=1e-5, atol=1e-3)
    assert mask[0].tolist() == [True] * 3 + [False] * 29
    # The prompt is the instruction of the frame, and the state that of the frame.
    io, frames = source.io, source.frames
    seen = [
        Observation(
            {name: np.array(images[row]) for name, images in frames.images.items()},
            frames.state[row],
            frames.texts[frames.task[row]],
        )
        for row in rows
    ]
    inputs = io.encode(seen)
    with torch.no_grad():
        expected_prefix = io.prefix(inputs)
    torch.testing.assert_close(state, inputs.state)
    length = expected_prefix.key_values.shape[-2]
    assert prefix.mask[:, :length].tolist() == expected_prefix.mask.tolist()
    got = (prefix.key_values * prefix.mask[:, None, None, None, :, None])[..., :length, :]
    want = expected_prefix.key_values * expected_prefix.mask[:, None, None, None, :, None]
    torch.testing.assert_close(got, want, atol=2e-3, rtol=2e-3)


def test_state_stands_in_the_prompt_of_pi05(dataset: Path, tmp_path: Path) -> None:
    policy = random_policy("pi05")
    spec = LeRobotDataset(dataset).spec
    frames = DatasetFrames.open(tmp_path / "frames", LeRobotDataset(dataset), 32)
    source = DatasetSource(policy, frames, spec)
    rows = np.array([0, 5, 20])
    own, empty = (source.prefixes.at(rows, prompt) for prompt in ("own", "empty"))
    assert (own.lengths > empty.lengths).all()
    assert not torch.equal(own.key_values[0, ..., -8:, :], own.key_values[1, ..., -8:, :])


def test_prefixes_computed_anew_are_those_that_are_kept(
    source: DatasetSource, tmp_path: Path
) -> None:
    kept = source.prefixes
    fresh = DatasetSource(source.policy, source.frames, source.io.spec).prefixes
    assert not fresh.keep(tmp_path / "none", 1000)
    assert not (tmp_path / "none").exists()
    rows = np.array([3, 17, 4])
    for prompt in ("own", "empty"):
        one, other = kept.at(rows, prompt), fresh.at(rows, prompt)
        assert torch.equal(one.mask, other.mask)
        torch.testing.assert_close(one.features, other.features)
        torch.testing.assert_close(one.key_values, other.key_values, atol=2e-3, rtol=2e-3)
    features = (prefixes.features_at(rows).features for prefixes in (kept, fresh))
    torch.testing.assert_close(*features)


def test_support_query_and_held_out_rows_lie_in_different_episodes(source: DatasetSource) -> None:
    def episodes(rows: np.ndarray) -> set[int]:
        spans = source.frames.episodes
        return {e for row in rows for e, (first, last) in enumerate(spans) if first <= row < last}

    for seed in range(6):
        embodiment = source.draw(seed, 1, 0.0, Stage1Config())
        support, query = episodes(embodiment.support), episodes(embodiment.query)
        assert support
        assert query
        assert not support & query
        assert support | query == {0, 1, 2} == episodes(embodiment.chunks)
    for embodiments in source.held_out(Stage1Config(), 2, 0).values():
        for embodiment in embodiments:
            for rows in (embodiment.support, embodiment.query, embodiment.chunks):
                assert episodes(rows) == {3}


def test_numbering_shuffles_mirrors_and_scales_what_alignment_predicts(
    source: DatasetSource,
) -> None:
    drawn = [source.draw(seed, 1, 0.0, Stage1Config()).numbering for seed in range(40)]
    orders = {tuple(numbering.order[:3].tolist()) for numbering in drawn}
    assert orders == {(0, 1, 2), (1, 0, 2)}, "the gripper moved, or nothing did"
    factors = np.stack([numbering.factors for numbering in drawn])
    assert (factors[:, 2:] == 1).all()
    assert ((np.abs(factors[:, :2]) >= 0.7) & (np.abs(factors[:, :2]) <= 1.3)).all()
    assert (factors[:, :2] < 0).any()
    assert (factors[:, :2] > 0).any()
    own = source.draw(3, 1, 1.0, Stage1Config()).numbering
    assert own.order.tolist() == list(range(32))
    assert (own.factors == 1).all()


def test_numbering_is_applied_as_it_says() -> None:
    numbering = Numbering(np.array([1, 0, 2]), np.float32([2.0, -1.0, 1.0]))
    assert numbering.apply(np.float32([[10.0, 20.0, 30.0]])).tolist() == [[40.0, -10.0, 30.0]]


def test_embodiment_follows_its_seed(source: DatasetSource) -> None:
    one, same, other = (source.draw(seed, 1, 0.0, Stage1Config()) for seed in (5, 5, 6))
    assert np.array_equal(one.numbering.factors, same.numbering.factors)
    assert not np.array_equal(one.numbering.factors, other.numbering.factors)


def test_feature_without_a_scale_gets_that_of_the_dataset(
    dataset: Path, init: Path, tmp_path: Path
) -> None:
    config = make_config(init, dataset)
    policy = policy_of(config)
    measured = open_dataset(config, tmp_path, policy).policy.vision.readout.spread.clone()
    assert not torch.equal(measured, torch.ones_like(measured))
    assert float(measured.min()) > 0
    # A model that has a scale keeps it.
    policy.vision.readout.spread.fill_(3.0)
    open_dataset(config, tmp_path, policy)
    assert (policy.vision.readout.spread == 3.0).all()


def test_dataset_without_enough_episodes_is_refused(init: Path, tmp_path: Path) -> None:
    short = Written(lengths=(9, 2), as_video=False).write(tmp_path / "short")
    config = make_config(init, short)
    with pytest.raises(StoreError, match=r"2 episodes leave no transitions .* to hold out"):
        open_dataset(config, tmp_path / "run", policy_of(config))


def test_decoding_that_was_stopped_begins_again(dataset: Path, tmp_path: Path) -> None:
    opened = LeRobotDataset(dataset)
    DatasetFrames.open(tmp_path, opened, None)
    (tmp_path / "index.json").unlink()
    (tmp_path / "images_0.npy").write_bytes(b"half")
    again = DatasetFrames.open(tmp_path, opened, None)
    assert len(again) == sum(WRITTEN.lengths)
    assert np.array_equal(again.images["wrist"][10], opened.read(1, 3, 4).images["wrist"][0])


def test_policy_of_the_run_is_not_the_one_on_disk(init: Path) -> None:
    policy = policy_of(make_config(init, None))
    assert isinstance(policy, Policy)
    with torch.no_grad():
        policy.w0_W1.zero_()
    assert load_policy(init).w0_W1.any(), "training would write into the model directory"


def test_batches_that_need_the_policy_are_not_read_ahead(
    init: Path, dataset: Path, tmp_path: Path
) -> None:
    config = make_config(init, dataset)
    policy = policy_of(config)
    kept = open_dataset(config, tmp_path, policy)
    computed = DatasetSource(policy, kept.frames, kept.io.spec)
    assert (kept.computes, computed.computes) == (False, True)
    loops = [InnerLoop(config.stage1, 0, policy, data) for data in (kept, computed)]
    for loop in loops:
        loop.step(0)
    ahead, plain = (isinstance(loop._parts, ReadAhead) for loop in loops)
    loops[0].close()
    assert ahead
    assert not plain
