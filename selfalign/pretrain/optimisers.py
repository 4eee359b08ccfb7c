"""The optimisers of the trunk."""

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from selfalign.pretrain.config import Stage1Config


def trunk_optimisers(trunk: nn.ParameterDict, config: Stage1Config) -> list[Optimizer]:
    """AdamW for every weight; or Muon for the matrices of the experts' layers beside it.

    Muon (Jordan 2024) gives its steps the root mean square of AdamW's (Liu et al. 2025,
    arXiv:2502.16982), so that one learning rate fits both.
    """
    by_muon = _matrices(trunk) if config.optimiser == "muon" else {}
    rest = [p for name, p in trunk.items() if name not in by_muon]
    rate, decay = config.learning_rate, config.weight_decay
    out: list[Optimizer] = [AdamW(rest, rate, weight_decay=decay)]
    if by_muon:
        muon = Muon(by_muon.values(), rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        out.append(muon)
    return out


def _matrices(trunk: nn.ParameterDict) -> dict[str, nn.Parameter]:
    """The linear maps inside of the experts' layers, not those into and out of the experts."""
    return {
        name: parameter
        for name, parameter in trunk.items()
        if "/layers/" in name and name.endswith("/weight") and parameter.ndim == 2
    }
