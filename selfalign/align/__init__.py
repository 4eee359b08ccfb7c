"""Alignment: losses without labels, the optimiser of W, snapshots of W and the gates before use."""
