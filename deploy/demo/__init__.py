"""The demonstration: a real server, a simulated robot it has never seen, and what alignment gains.

Everything between the two goes over HTTP and websockets. `python -m deploy.demo --help`.
"""
