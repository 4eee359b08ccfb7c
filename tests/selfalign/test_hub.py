"""Hub ids: what is local wins, the cache serves without a network, a refusal says what to do."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors

from selfalign.cli import main
from selfalign.hub import HubError, is_hub_id, resolve_dataset, resolve_model
from selfalign.model.checkpoint import load_policy, save_policy
from selfalign.pretrain.start import model_config_of
from server.__main__ import read_settings
from server.listen import StartError
from server.settings import Settings
from tests.fakes.hub_cache import COMMIT, cached, go_offline
from tests.fakes.models import random_policy


class Hub:
    """Stands for `snapshot_download`: remembers what it is asked for, and answers or raises."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, repo: str, **options: Any) -> str:
        self.asked.append((repo, options["repo_type"], options["revision"]))
        self.patterns = options["allow_patterns"]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def refusal(kind: type[Exception]) -> Exception:
    """An error of the Hub, without the response that it was made from."""
    error = kind.__new__(kind)
    Exception.__init__(error, "the server's words\nover two lines")
    return error


def test_local_directory_wins_and_the_hub_is_not_asked(tmp_path: Path) -> None:
    hub = Hub("/elsewhere")
    here = tmp_path / "org" / "name"
    here.mkdir(parents=True)
    assert resolve_model(here, download=hub) == here
    assert resolve_dataset(str(here), download=hub) == here
    assert hub.asked == []


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("org/name", ("org/name", "model", None)),
        ("org/pi0.5-base_x@main", ("org/pi0.5-base_x", "model", "main")),
        ("org/name@v1.0/beta", ("org/name", "model", "v1.0/beta")),
        (f"org/name@{COMMIT}", ("org/name", "model", COMMIT)),
    ],
)
def test_id_and_revision_are_asked_for(text: str, asked: tuple[Any, ...]) -> None:
    hub = Hub("/snapshot")
    assert resolve_model(text, download=hub) == Path("/snapshot")
    assert hub.asked == [asked]


def test_nothing_that_is_unpickled_is_fetched() -> None:
    hub = Hub("/snapshot")
    resolve_model("org/name", download=hub)
    assert not {"*", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"} & set(hub.patterns)
    assert {"*.safetensors", "*.json", "*.model"} <= set(hub.patterns)


def test_dataset_is_asked_for_as_such() -> None:
    hub = Hub("/snapshot")
    resolve_dataset("org/name@v3.0", download=hub)
    assert hub.asked == [("org/name", "dataset", "v3.0")]
    assert hub.patterns == ["meta/*", "data/*", "videos/*"]


@pytest.mark.parametrize("text", ["/no/such/dir", "nowhere", "a/b/c", "./org/name", "org/", "o/n@"])
def test_path_that_does_not_exist_and_is_no_id_is_refused(text: str) -> None:
    hub = Hub("/snapshot")
    assert not is_hub_id(text)
    with pytest.raises(HubError, match=r"does not exist, and is no id of the Hugging Face Hub"):
        resolve_model(text, download=hub)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.GatedRepoError, r"asks for consent: .*huggingface.co/org/name.*hf auth login"),
        (errors.RepositoryNotFoundError, r"has no model org/name .*spelling.*hf auth login"),
        (errors.RevisionNotFoundError, r"model org/name has no revision 'v9'"),
        (errors.LocalEntryNotFoundError, r"not in the cache .*hf download org/name"),
        (errors.HfHubHTTPError, r"org/name@v9 cannot be fetched: the server's words over two"),
        (ConnectionError, r"org/name@v9 cannot be fetched: the server's words"),
    ],
)
def test_refusal_of_the_hub_says_what_to_do(kind: type[Exception], words: str) -> None:
    with pytest.raises(HubError, match=words) as caught:
        resolve_model("org/name@v9", download=Hub(refusal(kind)))
    assert "\n" not in str(caught.value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return go_offline(monkeypatch, tmp_path / "hub")


def test_cache_serves_models_and_datasets_without_a_network(cache: Path) -> None:
    model = cached(cache, "models--org--name", {"main": COMMIT, "v1": COMMIT})
    dataset = cached(cache, "datasets--org--play", {"main": COMMIT})
    for revision in ("", "@main", "@v1", f"@{COMMIT}"):
        assert resolve_model(f"org/name{revision}") == model
    assert resolve_dataset("org/play") == dataset
    assert Settings(model_dir=Path("org/name@v1")).model_dir == model
    assert read_settings(["--model", "org/name"]).model_dir == model


def test_commands_take_an_id(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = random_policy()
    save_policy(policy, cached(cache, "models--org--name", {"v1": COMMIT}))
    assert main(["info", "--model", "org/name@v1"]) == 0
    assert policy.base_sha256 in capsys.readouterr().out
    assert main(["convert", "--from", "org/name@v1", "--to", str(cache / "made")]) == 0
    assert load_policy(cache / "made").base_sha256 == policy.base_sha256
    assert model_config_of("org/name@v1") == policy.config
    for command in ("convert", "attach"):
        assert main([command, "--from", "org/absent", "--to", str(cache / "new")]) == 2
        assert "org/absent is no directory here" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["org/absent", "org/name@v2", "org/play"])
def test_what_is_not_in_the_cache_is_refused_offline(cache: Path, text: str) -> None:
    cached(cache, "models--org--name", {"main": COMMIT})
    cached(cache, "datasets--org--play", {"main": COMMIT})
    with pytest.raises(
        HubError, match=rf"^{text} is no directory here and is not in the"
    ) as caught:
        resolve_model(text)
    assert "HF_HUB_OFFLINE is set; unset it, or fetch it" in str(caught.value)
    assert f"hf download {text.split('@', maxsplit=1)[0]} --repo-type model" in str(caught.value)


def test_server_refuses_a_model_that_is_nowhere(cache: Path) -> None:
    with pytest.raises(StartError, match=r"setting model_dir: .*org/absent is no directory here"):
        read_settings(["--model", "org/absent"])
    missing = Settings(model_dir=cache / "runs" / "model")
    assert missing.model_dir == cache / "runs" / "model"
