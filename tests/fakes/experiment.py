"""A small random policy and a robot with small images, for tests of selfalign.experiments."""

from selfalign.experiments.bench import Bench
from selfalign.experiments.cells import cells_of
from selfalign.experiments.robots import draw_robot
from selfalign.experiments.settings import OracleConfig, Settings
from selfalign.experiments.stage import Stage
from selfalign.model.policy import Policy
from selfalign.pretrain.config import PrefixConfig, PretrainConfig, RecordConfig, Stage1Config
from selfalign.pretrain.geometries import micro_config
from tests.fakes.models import random_policy

QUICK = Settings(
    episodes=4,
    robots=2,
    play_seconds=4.0,
    steps=2,
    oracle=OracleConfig(demonstrations=1, steps=2, batch_size=4),
)


def small_stage(policy: Policy, task: str = "reach", size: int = 2) -> Stage:
    """A stage whose images are as small as the policy's."""
    return Stage(task, size=size, image_size=policy.config.vision.image_size)


def small_bench(stage: Stage, policy: Policy, settings: Settings = QUICK) -> Bench:
    """The first robot of `both`, set up."""
    (cell,) = cells_of("both")
    robot = draw_robot(cell, settings.split, seed=settings.seed, index=0, episodes=2)
    stage.set_up(robot)
    return Bench(policy, stage, cell, robot, 0, settings)


def small_policy() -> Policy:
    """A policy of random weights that acts on two steps of play."""
    return random_policy()


def micro_training() -> PretrainConfig:
    """A stage 1 of seconds: few frames of one arm, a policy of the dummy's size."""
    return PretrainConfig(
        name="micro",
        model=micro_config(),
        record=RecordConfig(
            groups=3, held_out_groups=1, play_episodes=2, play_steps=20, demos=2, frames=6
        ),
        prefix=PrefixConfig(iterations=2, batch_size=4),
        stage1=Stage1Config(
            iterations=2,
            slots=3,
            slots_per_iteration=2,
            transitions=2,
            demo_frames=2,
            families={"tool_yawed": 1.0},
        ),
        log_every=1,
        evaluate_every=100,
        evaluate_on=1,
        checkpoint_every=2,
    )
