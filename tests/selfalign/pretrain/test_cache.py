"""The prefix cache: built in its file, mapped, and the same as one in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from selfalign.data.recording import Recording
from selfalign.model.policy import Policy
from selfalign.pretrain.cache import PrefixCache, build_cache
from selfalign.pretrain.config import PretrainConfig
from selfalign.pretrain.hindsight import LabelledPlay, hindsight_cache, label_play
from selfalign.pretrain.mapped_file import create_tensors
from selfalign.pretrain.stage1_data import Stage1Data


@pytest.fixture(scope="module")
def policy(config: PretrainConfig) -> Policy:
    torch.manual_seed(0)
    return Policy(config.model).freeze()


def test_cache_in_a_file_is_the_one_in_memory(
    recorded: Path, policy: Policy, tmp_path: Path
) -> None:
    recording, path = Recording(recorded / "recording"), tmp_path / "cache.safetensors"
    memory, built = build_cache(policy, recording), build_cache(policy, recording, path)
    read = PrefixCache.load(path, policy.config.vision.tokens)
    for cache in (built, read):
        for name in ("key_values", "mask", "features"):
            assert torch.equal(getattr(cache, name), getattr(memory, name)), name
        assert cache.image_tokens == memory.image_tokens
    assert [p.name for p in tmp_path.iterdir()] == ["cache.safetensors"]


def test_file_that_was_written_by_rows_is_a_safetensors_file(tmp_path: Path) -> None:
    plan = {"mask": (torch.bool, (5, 3)), "numbers": (torch.float16, (5, 2, 7))}
    made = create_tensors(tmp_path / "t.safetensors", plan)
    for row in (3, 0, 4):
        made["numbers"][row] = row + 1
    made["mask"][2] = True
    read = load_file(tmp_path / "t.safetensors")
    assert read.keys() == plan.keys()
    assert read["numbers"].dtype == torch.float16
    assert read["numbers"][:, 1, 6].tolist() == [1, 0, 0, 4, 5]
    assert read["mask"].any(1).tolist() == [False, False, True, False, False]


def test_rows_of_a_cache_are_read_where_they_lie(tmp_path: Path) -> None:
    rows, path = 4096, tmp_path / "cache.safetensors"
    made = create_tensors(
        path,
        {
            "key_values": (torch.float16, (rows, 4, 2, 2, 22, 32)),
            "mask": (torch.bool, (rows, 22)),
            "features": (torch.float32, (rows, 1, 27)),
        },
    )
    del made
    before = own_bytes()
    cache = PrefixCache.load(path, 16)
    prefix = cache.at(torch.tensor([5, 4000]))
    assert len(prefix) == 2
    # The file has 92 MB; two rows of it have 0.2.
    assert path.stat().st_size > 90e6
    assert own_bytes() - before < 20e6


def own_bytes() -> int:
    """Memory of this process that no file stands behind [byte]."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def test_labelled_play_and_demonstrations_may_have_prompts_of_other_lengths(
    recorded: Path, config: PretrainConfig, policy: Policy
) -> None:
    recording = Recording(recorded / "recording")
    hindsight = label_play(recording, config.model.horizon, 2, 0, {"reach": 1.0})
    labels = hindsight_cache(policy, recording, hindsight)
    cache = build_cache(policy, recording)
    assert labels.mask.shape[1] > cache.mask.shape[1], "nothing to pad"
    data = Stage1Data(policy, recording, cache, 1, LabelledPlay(hindsight, labels, share=0.5))
    embodiment = data.draw(0, 0, 1.0, config.stage1.model_copy(
        update={"canonical_families": {"tool_canonical": 1.0}}
    ))  # fmt: skip
    prefix, state, chunk, _ = data.policy_frames([embodiment] * 2, np.random.default_rng(0), 4)
    assert len(prefix) == len(state) == len(chunk) == 8
    assert prefix.mask.shape[1] == prefix.key_values.shape[-2] == labels.mask.shape[1]
    # Each embodiment has two labelled frames first, then two demonstrations, which end earlier.
    assert not prefix.mask[[2, 3, 6, 7]][:, cache.mask.shape[1] :].any()
