"""A SentencePiece file as a tokenizer: how big_vision publishes PaliGemma's, and openpi reads it.

It has the few methods of `tokenizers.Tokenizer` that a policy calls.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from selfalign.errors import ModelError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


@final
@dataclass(frozen=True)
class Pieces:
    """The ids of a text."""

    ids: list[int]


@final
class SentencePieceTokenizer:
    """Reads a `.model` file. Raises ModelError when it is none, or the package is missing."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        try:
            self._pieces = _processor(self._bytes)
        except ImportError:
            raise ModelError(
                f"{path} is a SentencePiece file; install the package that reads it with: "
                "pip install 'selfalign-server[paligemma]'"
            ) from None
        except RuntimeError as error:
            raise ModelError(f"{path} is not a SentencePiece file: {error}") from None

    def encode(self, text: str, *, add_special_tokens: bool = False) -> Pieces:
        """The ids of a text, with bos in front if asked for."""
        return Pieces(self._pieces.encode(text, add_bos=add_special_tokens))

    def token_to_id(self, token: str) -> int | None:
        """The id of one token; `<pad>`, `<bos>` and `<unk>` are what the file says they are."""
        pieces = self._pieces
        special = {"<pad>": pieces.pad_id(), "<bos>": pieces.bos_id(), "<unk>": pieces.unk_id()}
        if token in special:
            return special[token] if special[token] >= 0 else None
        # Encoded, not looked up: a newline may be spelled as a byte.
        ids = pieces.encode(token)
        return ids[0] if len(ids) == 1 and ids[0] != pieces.unk_id() else None

    def id_to_token(self, index: int) -> str:
        """The piece of an id."""
        return self._pieces.id_to_piece(index)

    def get_vocab_size(self) -> int:
        """How many ids there are."""
        return self._pieces.get_piece_size()

    def save(self, path: str) -> None:
        """Write the file as it was read, under a name that ends in .model."""
        Path(path).with_suffix(".model").write_bytes(self._bytes)


def _processor(content: bytes) -> "SentencePieceProcessor":
    # Imported here: only checkpoints with PaliGemma's own file need the package.
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=content)
