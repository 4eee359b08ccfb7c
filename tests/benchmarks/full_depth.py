"""Full depth in little memory: layers that come again, with the same weights.

A layer of language has 440 MB in float32, one of the expert 70 MB, of which no cache keeps anything
until the layer's turn comes again: it costs what a layer with weights of its own costs. The module
imports torch alone, since it runs in openpi's environment too.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def repeat(layers: nn.ModuleList, depth: int) -> None:
    """Append layers until there are `depth`: copies in turn, sharing every weight."""
    distinct = len(layers)
    for index in range(distinct, depth):
        layers.append(shared(layers[index % distinct], index))


def shared(layer: nn.Module, index: int) -> nn.Module:
    """A copy that shares parameters, buffers and configurations, and knows its place."""
    kept: list[Any] = [*layer.parameters(), *layer.buffers()]
    kept += [module.config for module in layer.modules() if hasattr(module, "config")]
    made = copy.deepcopy(layer, {id(one): one for one in kept})
    for module in made.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = index
    return made


def deepen(stacks: list[nn.Module], towers: list[nn.ModuleList], depth: int, tower: int) -> None:
    """Repeat the layers of stock Gemma stacks, which count them, and of vision towers."""
    for stack in stacks:
        layers, config = stack.layers, stack.config
        assert isinstance(layers, nn.ModuleList)
        repeat(layers, depth)
        config.num_hidden_layers = depth
    for layers in towers:
        repeat(layers, tower)
