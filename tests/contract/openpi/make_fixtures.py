"""Write the byte fixtures with the real openpi-client, in an environment of its own.

python3.11 -m venv /tmp/openpi && /tmp/openpi/bin/pip install openpi-client==0.1.2
/tmp/openpi/bin/python tests/contract/openpi/make_fixtures.py
"""

from pathlib import Path

import numpy as np
from openpi_client import msgpack_numpy

HERE = Path(__file__).parent
FRONT = (np.arange(8 * 8 * 3) % 251).astype(np.uint8).reshape(8, 8, 3)
WRIST = (np.arange(8 * 16 * 3) % 241).astype(np.uint8).reshape(8, 16, 3)
STATE = np.array([0.25, -0.5, 1.0])
MESSAGES = {
    "libero_observation": {
        "observation/image": FRONT,
        "observation/wrist_image": WRIST,
        "observation/state": STATE,
        "prompt": "touch the red cube",
    },
    "aloha_observation": {
        "state": STATE.astype(np.float32),
        "images": {
            "cam_high": FRONT.transpose(2, 0, 1),
            "cam_left_wrist": WRIST.transpose(2, 0, 1),
        },
        "prompt": "touch the red cube",
    },
    "droid_observation": {
        "observation/exterior_image_1_left": FRONT,
        "observation/wrist_image_left": WRIST,
        "observation/joint_position": STATE[:2],
        "observation/gripper_position": np.float64(STATE[2]),
        "prompt": "touch the red cube",
    },
    "reply": {
        "actions": np.array([[0.5, 0.25], [-1.0, 0.0]], np.float32),
        "policy_timing": {"infer_ms": 1.5},
        "server_timing": {"infer_ms": 2.0, "prev_total_ms": 2.5},
        "scalar": np.float32(0.5),
    },
}

if __name__ == "__main__":
    for name, message in MESSAGES.items():
        (HERE / f"{name}.msgpack").write_bytes(msgpack_numpy.packb(message))
