"""The version of the server."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The version of the installed package, `0+source` where it runs from a bare checkout."""
    try:
        return version("selfalign-server")
    except PackageNotFoundError:
        return "0+source"
