"""Prompts to token ids. The tokenizer is a file beside the model, so that PaliGemma's fits too.

pi0 reads `bos text newline`. pi0.5 reads its state in words as well:
`bos Task: text, State: 3 255 17;newline Action: `, with a blank at the end.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from selfalign.errors import ModelError
from selfalign.model.sentencepiece import SentencePieceTokenizer

PAD, BOS, UNKNOWN, NEWLINE = "<pad>", "<bos>", "<unk>", "\n"
_WORDS = (  # noqa: SIM905  a list of 67 lines would say no more
    "touch reach push lift grasp pick place open close move put the a an to at on in of and from "
    "into cube block ball cup drawer door table box object robot arm gripper tool hand red green "
    "blue yellow black white left right forward back up down above below near far task state action"
).split()


def small_tokenizer() -> Tokenizer:
    """A word tokenizer of about 400 entries: task words, letters, numbers 0-255, punctuation.

    A word it does not know is spelled in letters, so no instruction is lost.
    """
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    numbers = [str(n) for n in range(-1, 256)]
    entries = [PAD, BOS, UNKNOWN, NEWLINE, *_WORDS, *letters, *numbers, *".,:;!?'-_()"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix="")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\n|-?\d+|[a-z]+|[^\sa-z\d]"), "removed", True
    )
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, or a SentencePiece file, whose name ends in .model.

    Raises:
        ModelError: it does not exist or is not what its name says.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; a model directory has a tokenizer.json")
    if path.suffix == ".model":
        # It has every method of a Tokenizer that is called here; its type is not ours to extend.
        return cast("Tokenizer", SentencePieceTokenizer(path))
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  tokenizers raises bare Exception
        raise ModelError(f"{path} is not a tokenizer file: {error}") from None


@final
class PromptTooLong(ModelError):
    """A prompt has more tokens than the model reads. `tokens` and `limit` count bos and newline."""

    def __init__(self, text: str, *, tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt {text!r} takes {tokens} tokens, the model holds {limit}; shorten it"
        )
        self.tokens, self.limit = tokens, limit


def clean_text(text: str) -> str:
    """An instruction as openpi cleans it: no blanks around, no underscores, one line."""
    return text.strip().replace("_", " ").replace("\n", " ")


def state_prompt(text: str, state_D: NDArray[np.floating]) -> str:
    """pi0.5's prompt: the instruction and the normalised state in 256 bins, to openpi's letter.

    A number below -1 is bin -1 and one above 1 is bin 255: nothing is clipped.
    """
    bins = np.digitize(state_D, np.linspace(-1, 1, 257)[:-1]) - 1
    return f"Task: {clean_text(text)}, State: {' '.join(map(str, bins))};\nAction: "


@final
class PromptEncoder:
    """Instructions to padded token tensors, in the format of pi0 or, with a state, of pi0.5.

    `cleaned` says whether pi0's instructions are cleaned: by openpi, not by LeRobot. Both clean
    those of pi0.5.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, *, cleaned: bool = True) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.cleaned = cleaned
        self._pad, self._bos, self._newline = (
            _special(tokenizer, name) for name in (PAD, BOS, NEWLINE)
        )

    def ids(self, text: str, state_D: NDArray[np.floating] | None = None) -> list[int]:
        """The tokens of a prompt: pi0's, or with a normalised state pi0.5's.

        Raises:
            PromptTooLong: beyond `max_tokens`. openpi cuts such a prompt off, and pi0.5's
                `Action: ` with it.
        """
        if state_D is None:
            text_as_read = clean_text(text) if self.cleaned else text.removesuffix("\n")
            ids = [self._bos, *self._pieces(text_as_read), self._newline]
        else:
            ids = [self._bos, *self._pieces(state_prompt(text, state_D))]
        if len(ids) > self.max_tokens:
            raise PromptTooLong(text, tokens=len(ids), limit=self.max_tokens)
        return ids

    def encode(
        self,
        texts: list[str],
        length: int | None = None,
        *,
        states: Sequence[NDArray[np.floating]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Token ids int64 [B, t] and mask bool [B, t], padded to the longest or to `length`.

        `states` are normalised states [B, D] for the prompts of pi0.5.
        """
        given = [None] * len(texts) if states is None else states
        rows = [self.ids(text, state) for text, state in zip(texts, given, strict=True)]
        width = max(length or 0, *(len(row) for row in rows))
        tokens = torch.full((len(rows), width), self._pad, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        return tokens, mask

    def _pieces(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def _special(tokenizer: Tokenizer, name: str) -> int:
    value = tokenizer.token_to_id(name)
    if value is None:
        raise ModelError(f"the tokenizer has no token {name!r}; pi0 prompts need it")
    return value
