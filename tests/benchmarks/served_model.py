"""The model that the server under test serves."""

from __future__ import annotations

from selfalign.model.checkpoint import load_policy, shipped_model_dir
from selfalign.model.policy import Policy
from server.settings import Settings


def load_served_policy() -> Policy:
    """The model of `SELFALIGN_MODEL_DIR`, else the shipped one, as the server chooses it."""
    return load_policy(Settings().model_dir or shipped_model_dir())
