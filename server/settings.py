"""Settings of the server: the only place that reads the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from selfalign.hub import HubError, is_hub_id, resolve_model

_PREFIX = "SELFALIGN_"
# Read elsewhere: by the helper processes, and by tests.
_NO_SETTINGS = frozenset({"SELFALIGN_CHILD", "SELFALIGN_LEROBOT_PYTHON"})
SHIPPED_SPECS = Path(__file__).parent / "specs"


def shipped_specs() -> tuple[Path, ...]:
    """The robot specs that come with the server, in order of their file names."""
    return tuple(sorted(SHIPPED_SPECS.glob("*.yaml")))


class Settings(BaseSettings):
    """Everything that can be set, by argument or by environment variable `SELFALIGN_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, frozen=True, extra="forbid", protected_namespaces=()
    )

    model_dir: Path | None = Field(
        None, description="Model directory or Hugging Face id; the shipped model if unset"
    )
    specs: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=shipped_specs,
        description=f"Robot specs (YAML or TOML), separated by {os.pathsep!r}; the first is the "
        "default robot",
    )
    data_dir: Path = Field(Path("data"), description="Play, snapshots of W and robots live here")

    host: str = Field("127.0.0.1", description="Address to listen on")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="More names by which the server may be called, separated by commas; '*.NAME' "
        "for all below NAME, '*' for any. Addresses, localhost and the machine's names always may",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one")
    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, description="Largest request body or websocket message [byte]"
    )
    queue_depth: int = Field(8, ge=1, description="Observations that may wait for the policy")
    torch_threads: int = Field(1, ge=1, description="Threads of one policy evaluation")
    compile: bool = Field(
        default=False,
        description="Pass chunks through torch.compile: the first one takes a minute, swaps of W "
        "compile nothing. On a CPU it gains nothing (docs/checkpoints.md). Without a compiler a "
        "warning says so and nothing changes",
    )
    device: str = Field("cpu", description="Torch device of the policy: cpu, cuda or cuda:N")
    dtype: Literal["stored", "float32", "bfloat16"] = Field(
        "stored",
        description="Precision of the weights; stored: as in the model's file. W is float32 always",
    )
    cuda_graphs: bool = Field(
        default=False,
        description="On a GPU record a chunk once and replay it; W is copied in, a swap records "
        "nothing. Not yet run on a GPU by this project",
    )
    shutdown_grace_s: int = Field(5, ge=1, description="Time for open requests at shutdown [s]")

    align_mode: Literal["process", "inproc"] = Field(
        "process", description="Align in a process of its own, or in a thread (Jetson)"
    )
    prefix_memory_bytes: int = Field(
        2 * 2**30,
        ge=0,
        description="Prefixes of play that a session keeps in memory; beyond that on disk [byte]",
    )
    prefix_disk_bytes: int = Field(
        32 * 2**30, ge=0, description="Prefixes of play that a session keeps on disk [byte]"
    )
    align_micro_batch: int | None = Field(
        None,
        ge=1,
        description="Transitions of an alignment step that are in memory at once [all 32]",
    )
    align_checkpointing: bool = Field(
        default=False,
        description="Compute the experts' layers twice in alignment, to keep less in memory",
    )
    prestart: bool = Field(
        default=True,
        description="Start the recorder and the align worker with the server, not with the first "
        "play and the first session",
    )
    keep_resident: int = Field(3, ge=1, description="Earlier versions of W kept in memory")
    quota_bytes: int = Field(10 * 2**30, ge=2**20, description="Largest size of the play store")
    min_free_bytes: int = Field(2**30, ge=0, description="Disk space that play leaves free [byte]")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("model_dir", mode="after")
    @classmethod
    def _fetch_model(cls, value: Path | None) -> Path | None:
        if value is None or not is_hub_id(str(value)):
            return value
        try:
            return resolve_model(value)
        except HubError as error:
            raise ValueError(str(error)) from None

    @field_validator("specs", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


def misspelt(variables: Iterable[str] = os.environ) -> list[str]:
    """What to say of variables `SELFALIGN_<NAME>` that set nothing, one line each."""
    known = [name.upper() for name in Settings.model_fields]
    lines = []
    for variable in sorted(variables):
        name = variable.removeprefix(_PREFIX)
        if name != variable and name not in known and variable not in _NO_SETTINGS:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {_PREFIX}{near[0]}?" if near else ""
            lines.append(f"{variable} is no setting and changes nothing{meant}")
    return lines
