"""What the server asks of the play store, answered by the recorder, which alone may write there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from selfalign.data.play_store import EpisodeInUse, PlayStore, UnknownEpisode
from selfalign.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

Message = dict[str, Any]


def answer(store: PlayStore, asked: Message) -> Message:
    """Do what a message of type `hold` or `delete` asks for; return what to tell the server.

    The answer to `delete` holds `deleted`, or `code` and `message` where nothing was to be done.
    """
    told = {"type": "answer", "request": asked["request"]}
    if asked["type"] == "hold":
        store.hold(asked["episodes"])
        return told
    return told | _delete(store, asked["episodes"], pinned=asked["pinned"])


def _delete(store: PlayStore, episodes: Sequence[str], *, pinned: bool) -> Message:
    try:
        # Many files take a while; the recorder removes them between the steps of play.
        deleted = store.delete(*episodes, pinned=pinned, sweep=False)
    except EpisodeInUse as error:
        return {"code": "episode-in-use", "episode": error.episode, "use": error.use}
    except UnknownEpisode as error:
        return {"code": "unknown-episode", "message": str(error)}
    except StoreError as error:
        return {"code": "store-error", "message": str(error)}
    logger.info("deleted, as asked: %s", ", ".join(info.id for info in deleted))
    return {"deleted": [[info.id, info.bytes] for info in deleted]}
