"""Hugging Face Hub ids wherever a directory is accepted: `org/name` or `org/name@revision`.

What exists on this machine always wins. Only weights in safetensors, JSON and tokenizers are taken
of a model: nothing that would have to be unpickled.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, final

from selfalign.errors import SelfAlignError

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?")
_PATTERNS = {
    "model": ["*.json", "*.safetensors", "*.model", "*.md"],
    "dataset": ["meta/*", "data/*", "videos/*"],
}

Kind = Literal["model", "dataset"]


@final
class HubError(SelfAlignError):
    """A model or dataset is neither a directory nor to be had from the Hugging Face Hub."""


def is_hub_id(text: str) -> bool:
    """Whether a text is to be looked for on the Hub: it has an id's form and is no local path."""
    return _ID.fullmatch(text) is not None and not Path(text).exists()


def resolve_model(text: str | Path, *, download: Callable[..., str] | None = None) -> Path:
    """Return the directory of a model: a local path, or what the Hub has under an id.

    Args:
        text: A path, or `org/name[@revision]`; a revision is a branch, a tag or a commit.
        download: What fetches a snapshot; huggingface_hub's `snapshot_download` unless a test
            gives another. It uses its cache, and nothing else when HF_HUB_OFFLINE is set.

    Raises:
        HubError: it is nowhere, or the Hub refuses it; says what to do.
    """
    return _resolve(str(text), "model", download)


def resolve_dataset(text: str | Path, *, download: Callable[..., str] | None = None) -> Path:
    """Return the directory of a LeRobotDataset, as `resolve_model` does of a model."""
    return _resolve(str(text), "dataset", download)


def _resolve(text: str, kind: Kind, download: Callable[..., str] | None) -> Path:
    path = Path(text)
    if path.exists():
        return path
    match = _ID.fullmatch(text)
    if match is None:
        raise HubError(
            f"{text} does not exist, and is no id of the Hugging Face Hub either (org/name or "
            "org/name@revision)"
        )
    from huggingface_hub import snapshot_download

    return Path(_snapshot(text, match[1], match[2], kind, download or snapshot_download))


def _snapshot(
    text: str, repo: str, revision: str | None, kind: Kind, download: Callable[..., Any]
) -> str:
    from huggingface_hub import errors

    try:
        return str(
            download(repo, repo_type=kind, revision=revision, allow_patterns=_PATTERNS[kind])
        )
    except errors.GatedRepoError as error:
        problem = (
            f"{kind} {repo} asks for consent: accept its terms at {_page(repo, kind)}, then log in "
            "with `hf auth login` or set HF_TOKEN"
        )
        raise HubError(problem) from error
    except errors.RepositoryNotFoundError as error:
        problem = (
            f"{text} is no directory here, and the Hugging Face Hub has no {kind} {repo} that you "
            "may see; check the spelling, or log in with `hf auth login` if it is private"
        )
        raise HubError(problem) from error
    except errors.RevisionNotFoundError as error:
        problem = f"{kind} {repo} has no revision {revision!r}; see {_page(repo, kind)}/tree/main"
        raise HubError(problem) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(_absent(text, repo, kind)) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        raise HubError(f"{kind} {text} cannot be fetched: {_one_line(error)}") from error


def _absent(text: str, repo: str, kind: Kind) -> str:
    """Neither on the disk nor within reach."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        why, way = "HF_HUB_OFFLINE is set", "unset it"
    else:
        why, way = "the Hub cannot be reached", "check the network"
    return (
        f"{text} is no directory here and is not in the cache {constants.HF_HUB_CACHE}, and {why}; "
        f"{way}, or fetch it where there is a network: hf download {repo} --repo-type {kind}"
    )


def _page(repo: str, kind: Kind) -> str:
    return f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
