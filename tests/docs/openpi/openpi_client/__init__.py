"""A stand-in for openpi-client, which needs numpy < 2 and so an environment of its own."""
