"""Types of command-line options."""

import argparse


def count(text: str) -> int:
    """A whole number of at least 1. Raises argparse.ArgumentTypeError for less."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
