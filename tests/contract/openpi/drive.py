"""Drive a server with the real openpi-client. Runs in an environment of its own (numpy < 2)."""

import sys

import numpy as np
from openpi_client import action_chunk_broker, image_tools, websocket_client_policy


def observation(size: int = 8) -> dict:
    """An observation as the LIBERO example of openpi makes it."""
    picture = (np.arange(20 * 10 * 3) % 251).astype(np.uint8).reshape(20, 10, 3)
    return {
        "observation/image": image_tools.resize_with_pad(picture, size, size),
        "observation/wrist_image": image_tools.resize_with_pad(picture, size, 16),
        "observation/state": np.array([0.25, -0.5, 1.0]),
        "prompt": "touch the red cube",
    }


def refusal(policy: websocket_client_policy.WebsocketClientPolicy) -> str:
    """What the client raises for an image of the wrong size."""
    try:
        policy.infer(observation(size=9))
    except RuntimeError as error:
        return str(error)
    return "an image of the wrong size was answered"


def main(host: str, port: int) -> None:
    """Metadata, two answers, a broker that steps through a chunk, and an error."""
    policy = websocket_client_policy.WebsocketClientPolicy(host=host, port=port, api_key="key")
    assert policy.get_server_metadata()["robot"] == "arm"
    first, second = policy.infer(observation()), policy.infer(observation())
    assert first["actions"].shape == (4, 2), first
    assert first["actions"].dtype == np.float32
    assert "prev_total_ms" in second["server_timing"]
    broker = action_chunk_broker.ActionChunkBroker(policy, action_horizon=4)
    steps = [broker.infer(observation())["actions"] for _ in range(6)]
    assert all(step.shape == (2,) for step in steps)
    policy.reset()
    assert "says 8 x 8" in refusal(policy)
    print("openpi-client is content")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
