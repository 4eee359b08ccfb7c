"""Prompts to token ids. The tokenizer is a file beside the model, so that PaliGemma's fits too."""

from pathlib import Path
from typing import final

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from selfalign.errors import ModelError

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
    """Read a tokenizer.json. Raises ModelError when it cannot."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist; a model directory has a tokenizer.json")
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


@final
class PromptEncoder:
    """Instructions to padded token tensors in the format of pi0: bos, text, newline."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._pad, self._bos, self._newline = (
            _special(tokenizer, name) for name in (PAD, BOS, NEWLINE)
        )

    def ids(self, text: str) -> list[int]:
        """bos, the tokens of the text, newline. Raises PromptTooLong beyond `max_tokens`."""
        clean = text.strip().replace("_", " ").replace("\n", " ")
        ids = [
            self._bos,
            *self.tokenizer.encode(clean, add_special_tokens=False).ids,
            self._newline,
        ]
        if len(ids) > self.max_tokens:
            raise PromptTooLong(text, tokens=len(ids), limit=self.max_tokens)
        return ids

    def encode(self, texts: list[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Token ids int64 [B, t] and mask bool [B, t], padded to the longest or to `length`."""
        rows = [self.ids(text) for text in texts]
        width = max(length or 0, *(len(row) for row in rows))
        tokens = torch.full((len(rows), width), self._pad, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        return tokens, mask


def _special(tokenizer: Tokenizer, name: str) -> int:
    value = tokenizer.token_to_id(name)
    if value is None:
        raise ModelError(f"the tokenizer has no token {name!r}; pi0 prompts need it")
    return value
