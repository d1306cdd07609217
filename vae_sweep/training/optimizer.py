"""torch.optim's updates of rows, one per run, each with its run's learning rate.

They are called as functions: the classes around them import torch's compiler, a second of
every process, of which nothing is used here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from vae_sweep.config import RunConfig, TrainConfig


class Optimizer:
    """Adam, AdamW or SGD with momentum, fused.

    `param_groups` has the rows of each learning rate: `params`, `base`, the rate as it was
    set, and `lr`, the rate of the step, which is a tensor on CUDA, where the captured step
    reads it. `state` has each row's moments, by torch.optim's names.
    """

    def __init__(self, configs: Sequence[RunConfig], rows: list[nn.Parameter]):
        self.config = configs[0].train
        cuda = rows[0].is_cuda
        rates = [config.train.lr for config in configs]
        self.param_groups: list[dict[str, Any]] = [
            {
                "params": [r for r, own in zip(rows, rates, strict=True) if own == rate],
                "lr": torch.tensor(rate, device=rows[0].device) if cuda else rate,
                "base": rate,
            }
            for rate in dict.fromkeys(rates)
        ]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {row: {} for row in rows}
        self._update = _momentum if self.config.optimizer == "sgd" else _adam

    @torch.no_grad()
    def step(self) -> None:
        """Updates every row by its `grad`."""
        for group in self.param_groups:
            rows = group["params"]
            states = [self.state[row] for row in rows]
            gradients = [row.grad for row in rows]
            self._update(self.config, rows, gradients, states, group["lr"])


def _adam(config: TrainConfig, rows: Any, gradients: Any, states: Any, lr: Any) -> None:
    for row, state in zip(rows, states, strict=True):
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=row.device)
            state["exp_avg"] = torch.zeros_like(row)
            state["exp_avg_sq"] = torch.zeros_like(row)
    adam(
        rows,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        fused=True,
        decoupled_weight_decay=config.optimizer == "adamw",
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=lr,
        weight_decay=config.weight_decay,
        eps=1e-8,
        maximize=False,
    )


def _momentum(config: TrainConfig, rows: Any, gradients: Any, states: Any, lr: Any) -> None:
    name = "momentum_buffer"
    buffers = [state.get(name) for state in states] if config.momentum else []
    sgd(
        rows,
        gradients,
        buffers,
        fused=True,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        lr=lr,
        dampening=0,
        nesterov=False,
        maximize=False,
    )
    for state, buffer in zip(states, buffers, strict=False):  # none without momentum
        state[name] = buffer
