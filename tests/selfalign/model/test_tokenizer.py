"""Prompts: bos, words, newline; nothing is lost, nothing is too long."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from selfalign.errors import ModelError
from selfalign.model.tokenizer import (
    BOS,
    NEWLINE,
    PAD,
    UNKNOWN,
    PromptEncoder,
    PromptTooLong,
    read_tokenizer,
    small_tokenizer,
    state_prompt,
)


def words(text: str) -> list[str]:
    tokenizer = small_tokenizer()
    return [tokenizer.id_to_token(i) for i in PromptEncoder(tokenizer, 100).ids(text)]


def test_prompt_is_bos_words_newline() -> None:
    assert words("touch the red cube") == [BOS, "touch", "the", "red", "cube", NEWLINE]


def test_empty_prompt_is_bos_newline() -> None:
    assert words("") == [BOS, NEWLINE]


def test_text_is_cleaned_as_in_openpi() -> None:
    assert words("  Touch_the\nred CUBE ") == words("touch the red cube")


def test_unknown_word_is_spelled_not_lost() -> None:
    spelled = words("quixotic")
    assert UNKNOWN not in spelled
    assert "".join(spelled[1:-1]) == "quixotic"


def test_different_unknown_words_differ() -> None:
    assert words("mug") != words("jug")


def test_every_state_bin_is_one_token() -> None:
    assert words("-1 0 7 255")[1:-1] == ["-1", "0", "7", "255"]


def test_prompts_are_padded_and_masked() -> None:
    tokenizer = small_tokenizer()
    tokens, mask = PromptEncoder(tokenizer, 12).encode(["touch the red cube", "lift"], length=8)
    assert tokens.shape == mask.shape == (2, 8)
    assert mask.sum(-1).tolist() == [6, 3]
    assert tokens[1, 3:].unique().tolist() == [tokenizer.token_to_id(PAD)]


def test_prompt_beyond_the_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(PromptTooLong, match="takes 6 tokens, the model holds 5") as caught:
        PromptEncoder(small_tokenizer(), 5).ids("touch the red cube")
    assert (caught.value.tokens, caught.value.limit) == (6, 5)


def test_tokenizer_survives_its_file(tmp_path: Path) -> None:
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    read = read_tokenizer(tmp_path / "tokenizer.json")
    text = "push the blue cube forward, 17!"
    assert read.encode(text).ids == small_tokenizer().encode(text).ids


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError, match=r"tokenizer\.json does not exist"):
        read_tokenizer(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer file"):
        read_tokenizer(path)


def test_tokenizer_without_special_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="no token '<pad>'"):
        PromptEncoder(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), 4)


def test_state_prompt_is_openpi_s_to_the_letter() -> None:
    text = state_prompt("pick_up\n ", np.array([-1.0, -0.999, 0.0, 0.999, 1.0], np.float32))
    assert text == "Task: pick up, State: 0 0 128 255 255;\nAction: "


def test_state_beyond_its_range_is_not_clipped() -> None:
    """The trap: openpi's digitize gives -1 below the range and 255 above it."""
    text = state_prompt("go", np.array([-1.5, 1.5, 40.0]))
    assert text == "Task: go, State: -1 255 255;\nAction: "


def test_prompt_with_a_state_ends_with_action_and_without_a_newline() -> None:
    tokenizer = small_tokenizer()
    ids = PromptEncoder(tokenizer, 40).ids("lift", np.array([0.0, -2.0]))
    read = [tokenizer.id_to_token(i) for i in ids]
    assert read == [
        *(BOS, "task", ":", "lift", ",", "state", ":"),
        *("128", "-1", ";", NEWLINE, "action", ":"),
    ]


def test_each_text_of_a_batch_is_told_its_own_state() -> None:
    prompts = PromptEncoder(small_tokenizer(), 40)
    tokens, mask = prompts.encode(["lift", "lift"], states=[np.zeros(2), np.zeros(5)])
    assert mask.sum(-1).tolist() == [13, 16]
    assert tokens[0, :13].tolist() == prompts.ids("lift", np.zeros(2))
    with pytest.raises(ValueError, match="shorter"):
        prompts.encode(["lift", "lift"], states=[np.zeros(2)])
