"""A recording of a few seconds, made once; without MuJoCo these tests are not collected."""

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("mujoco") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from selfalign.pretrain.config import PrefixConfig, PretrainConfig, RecordConfig, Stage1Config
    from selfalign.pretrain.geometries import micro_config
    from selfalign.pretrain.record import record_missing
    from selfalign.sim import SimulationUnavailable

    @pytest.fixture(scope="session")
    def config() -> PretrainConfig:
        """Everything as small as it goes; slots live so shortly that some end in every test."""
        return PretrainConfig(
            name="micro",
            model=micro_config(),
            record=RecordConfig(
                groups=3, held_out_groups=1, play_episodes=2, play_steps=20, demos=2, frames=6
            ),
            prefix=PrefixConfig(iterations=3, batch_size=4),
            stage1=Stage1Config(
                iterations=6,
                slots=3,
                slots_per_iteration=2,
                transitions=2,
                demo_frames=2,
                lifetime=1.5,
                families={"joint_permuted": 1.0},
            ),
            log_every=1,
            evaluate_every=100,
            evaluate_on=1,
            checkpoint_every=2,
        )

    @pytest.fixture(scope="session")
    def recorded(config: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run directory with a recording and single frames. Read-only: link it, do not write."""
        run = tmp_path_factory.mktemp("recorded")
        try:
            record_missing(config.record, run)
        except SimulationUnavailable as error:
            pytest.skip(str(error))
        return run

    @pytest.fixture
    def run_dir(recorded: Path, tmp_path: Path) -> Path:
        """A fresh run directory that shares the recording."""
        run = tmp_path / "run"
        run.mkdir()
        for name in ("recording", "frames"):
            (run / name).symlink_to(recorded / name)
        return run
