"""Variants as data, their training from one start, and what is said of them."""

import json
from pathlib import Path

import pytest
import torch

from selfalign.cli import main
from selfalign.experiments import ablate_command
from selfalign.experiments.ablation import AblationConfig, VariantResult, result_json
from selfalign.experiments.ablation_axes import (
    AXES,
    UnavailableVariant,
    Variant,
    chosen,
    override,
    training_of,
)
from selfalign.experiments.ablation_train import (
    STARTS,
    Cost,
    StaleCache,
    Start,
    Training,
    WrongPrefix,
    start_policy,
)
from selfalign.experiments.cells import cells_of
from selfalign.experiments.peak_memory import Took
from selfalign.experiments.settings import Settings
from selfalign.experiments.summary import CellResult
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.model.policy import Policy
from selfalign.pretrain.config import PretrainConfig
from tests.fakes.experiment import micro_training, small_policy
from tests.fakes.models import random_policy
from tests.selfalign.experiments.test_calibration import robot

TINY = Path(__file__).parents[3] / "selfalign" / "pretrain" / "configs" / "tiny.toml"


def variant(axis: str, name: str) -> Variant:
    (found,) = chosen(axis, [name])
    return found


def test_command_and_table_name_the_same_axes_and_starts() -> None:
    assert tuple(AXES) == ablate_command.AXIS_NAMES
    assert ablate_command.START_NAMES == STARTS


@pytest.mark.parametrize("axis", AXES)
def test_every_variant_fits_the_configuration_that_ships(axis: str) -> None:
    config = PretrainConfig.load(TINY)
    names = [each.name for each in chosen(axis)]
    assert len(set(names)) == len(names) >= 2
    for each in chosen(axis):
        training_of(each, config)
        AblationConfig().settings_of(each)


def test_a_loss_that_is_off_is_off_at_both_stages() -> None:
    only = variant("losses", "dynamics")
    config = training_of(only, micro_training()).stage1.inner
    settings = AblationConfig().settings_of(only)
    for weights in (config, settings.alignment):
        assert [weights.of(n) for n in ("perception", "inverse_dynamics", "dynamics")] == [0, 0, 1]
    rate = config.model_copy(update={"learning_rate": 0.5})
    assert AblationConfig().settings_of(only, rate).alignment == rate
    assert settings.methods == ("base", "play_5", "play_10", "aligned")
    assert settings.play_seconds == 15.0
    assert AblationConfig().settings_of(variant("losses", "baseline")).methods == ("base",)


def test_values_may_follow_from_the_configuration() -> None:
    config = PretrainConfig.load(TINY)
    layers = [training_of(variant("ttt", n), config).model.ttt_layers for n in ("early", "late")]
    assert layers == [(0, 1), (2, 3)]
    assert training_of(variant("depth", "depth_all"), config).model.alignment.depth == 4


def test_what_cannot_be_set_is_named() -> None:
    config = micro_training()
    with pytest.raises(UnavailableVariant, match=r"'x' sets stage1.magic.*does not have"):
        override(config, {"stage1.magic": 1}, "x")
    with pytest.raises(UnavailableVariant, match=r"'x': stage1.lifetime"):
        override(config, {"stage1.lifetime": -1}, "x")


@pytest.mark.parametrize("start", ["prefix", "model"])
def test_every_variant_starts_from_what_fits_it(start: Start, tmp_path: Path) -> None:
    source = random_policy()
    save_policy(source, tmp_path)
    model = source.config.model_copy(
        update={
            "alignment": source.config.alignment.model_copy(update={"depth": 2}),
            "ttt": source.config.ttt.model_copy(update={"layers": (1,)}),
        }
    )
    policy = start_policy(micro_training().model_copy(update={"model": model}), tmp_path, start)
    own, given = policy.state_dict(), source.state_dict()
    assert torch.equal(own["embed_tokens.weight"], given["embed_tokens.weight"])
    is_kept = torch.equal(own["action_in_proj.weight"], given["action_in_proj.weight"])
    assert is_kept == (start == "model")
    if start == "model":
        assert torch.equal(policy.w0_W1[0], source.w0_W1[1])
        first = "alignment.expert.layers.0.mlp.up_proj.weight"
        assert torch.equal(own[first], given[first])


def test_a_start_whose_prefix_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_policy(random_policy(), tmp_path)
    with pytest.raises(WrongPrefix, match="does not fit the prefix of configuration 'micro'"):
        start_policy(micro_training(), tmp_path, "prefix")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("source")
    save_policy(Policy(micro_training().model), directory)
    return directory


def test_variants_share_a_recording_and_are_trained_once(source: Path, tmp_path: Path) -> None:
    training, common = Training(tmp_path, "prefix", source), micro_training()
    depth = training_of(variant("depth", "depth_2"), common)
    models = [training.train(config, common) for config in (common, depth)]
    runs = [model.parent for model in models]
    assert runs[0] != runs[1]
    assert (runs[0] / "recording").resolve() == (runs[1] / "recording").resolve()
    assert load_policy(models[1]).config.alignment.depth == 2
    kept = load_policy(source).state_dict()["embed_tokens.weight"]
    assert torch.equal(load_policy(models[0]).state_dict()["embed_tokens.weight"], kept)
    cost = Cost.of(runs[0])
    assert cost.is_done
    assert cost.seconds > 0
    written = (models[0] / "model.safetensors").stat().st_mtime_ns
    assert training.train(common, common) == models[0]
    assert (models[0] / "model.safetensors").stat().st_mtime_ns == written

    # A run that was stopped goes on, and what it took until then counts.
    (runs[0] / "cost.json").write_text(Cost(seconds=1000.0).model_dump_json())
    training.train(common, common)
    assert Cost.of(runs[0]).seconds > 1000

    other = tmp_path / "other"
    save_policy(Policy(micro_training().model), other)
    shared = (runs[0] / "recording").resolve().parent
    with pytest.raises(StaleCache, match="prefixes of another model"):
        Training(tmp_path, "prefix", other, shared).train(common, common)


def outcome(target: float, of: Variant | None = None) -> VariantResult:
    won = {"base": 1, "play_5": 2, "play_10": 3, "aligned": 4, "per_sample": 4}
    plain = robot(0, before=1, after=4, loss=0.1, passed=True)
    success = {name: tuple(i < n for i in range(4)) for name, n in won.items()}
    took = {"aligned": Took(2.0, 1.5, 300.0), "play_5": Took(9.0, 9.0, None)}
    record = plain.model_copy(update={"success": success, "took": took})
    config = AblationConfig(settings=Settings(episodes=4, robots=1), target_success=target)
    every = of or variant("losses", "all")
    cell = CellResult(cells_of("both")[0], config.settings_of(every), (record,))
    return VariantResult(every, config, Path("nowhere"), (cell,), None)


def test_speed_is_the_least_play_that_reaches_the_wanted_success() -> None:
    found = [outcome(target).seconds_to_target for target in (0.25, 0.5, 0.7, 1.0)]
    assert found == [0.0, 5.0, 10.0, 15.0]
    assert outcome(1.0).against_base(15.0).improved == 3
    assert outcome(1.0).cost == Took(2.0, 1.5, 300.0)


def test_episodes_that_learn_by_themselves_need_no_play() -> None:
    alone = variant("w", "sample")
    assert outcome(1.0, alone).seconds_to_target == 0.0
    assert outcome(1.0, alone).rate(0.0).successes == 1
    assert outcome(1.0, alone).cost is None


def ablate(model: Path, out: Path, *options: str) -> int:
    quick = ["--episodes", "1", "--robots", "1", "--steps", "1", "--play-trajectories", "1"]
    return main(["ablate", "--model", str(model), "--out", str(out), *quick, *options])


def test_stage_2_alone_from_the_command_line_to_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    save_policy(small_policy(), model)
    document = tmp_path / "doc.md"
    begin = "<!-- ablation_stage2: `selfalign ablate --document` writes what follows -->"
    document.write_text(f"{begin}\nold\n<!-- end of ablation_stage2 -->\n")
    options = ("--stage2-only", "--document", str(document))
    assert ablate(model, tmp_path / "out", *options) == 0
    text = capsys.readouterr().out
    assert "| + inverse dynamics |" in text
    assert "contrastive: variant 'contrastive' needs training" in text
    (losses,) = json.loads((tmp_path / "out" / "ablation_results.json").read_text())["axes"]
    assert [each["available"] for each in losses["variants"]] == [True] * 5 + [False]
    assert losses["variants"][4]["few_shot"][0]["play_s"] == 5.0
    for name, start in (("ablation_plots.pdf", b"%PDF"), ("ablation_plots.png", b"\x89PNG")):
        assert (tmp_path / "out" / name).read_bytes().startswith(start)
    assert "| + all " in document.read_text()
    assert "](images/experiments_ablation_stage2.png)" in document.read_text()
    cached = {file: file.read_bytes() for file in (tmp_path / "out" / "cache").iterdir()}
    assert ablate(model, tmp_path / "out", *options) == 0
    assert {file: file.read_bytes() for file in (tmp_path / "out" / "cache").iterdir()} == cached


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variants", "magic"], "no variant of losses is called 'magic'"),
        (["--variants", "contrastive", "--stage2-only"], "needs training"),
        (["--stage2-only", "--family", "sideways"], "no action space family"),
        (["--stage2-only", "--document", "README.md"], "expected once each: <!-- ablation_stage2"),
    ],
)
def test_what_cannot_be_done_is_said(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    save_policy(small_policy(), model)
    assert ablate(model, tmp_path / "out", *options) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--play-trajectories", "1,none"), ("--target-success", "90"), ("--trajectory-seconds", "2")],
)
def test_options_are_checked(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ablate", option, value])
    assert f"argument {option}: expected" in capsys.readouterr().err


def test_a_list_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--list", "--out", str(tmp_path / "out")]) == 0
    assert "lifetime: Mean visits of a slot" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_variant_that_is_not_there_says_why() -> None:
    found = result_json("x", "an x", UnavailableVariant("needs y"))
    assert found == {"variant": "x", "title": "an x", "available": False, "reason": "needs y"}
