"""The robot's and the operator's side of a SelfAlign server. Light: no torch, no fastapi.

`RobotClient` asks for action chunks and streams play, `ControlLoop` drives a robot at a fixed
rate from them, `OperatorClient` starts alignment and moves W. All calls block the caller.
"""

from client.action_queue import ActionQueue
from client.chunk import ActionChunk, Continuation, Observation
from client.control import ControlLoop, LoopStatistics, RealTimeChunking, Robot
from client.endpoint import Endpoint
from client.errors import ClientError, Disconnected, ProtocolError, ServerProblem, ServerUnreachable
from client.operator_client import OperatorClient, ServerStatus
from client.play import PlayRecorder
from client.retry import Backoff
from client.robot_client import RobotClient

__all__ = [
    "ActionChunk",
    "ActionQueue",
    "Backoff",
    "ClientError",
    "Continuation",
    "ControlLoop",
    "Disconnected",
    "Endpoint",
    "LoopStatistics",
    "Observation",
    "OperatorClient",
    "PlayRecorder",
    "ProtocolError",
    "RealTimeChunking",
    "Robot",
    "RobotClient",
    "ServerProblem",
    "ServerStatus",
    "ServerUnreachable",
]
