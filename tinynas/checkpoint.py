"""Training state on disk: tensors as safetensors with a small JSON beside them in the same file, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tinynas.errors import SearchError
from tinynas.files import write_atomically


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
    """Write ``tensors`` and the JSON values of ``state`` to ``path``; a crash leaves the old file or the new, whole.

    Both go into one file, so that they can never disagree. Raises SearchError when the disk will not take it.
    """
    content = save(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, {"state": json.dumps(state)}
    )
    write_atomically(path, content)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors and the state of a checkpoint. Raises SearchError when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            state = json.loads(file.metadata()["state"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SearchError(f"the checkpoint {path} cannot be read ({error}); delete it to start over") from error
    return tensors, state


def resume(
    path: Path | None, identity: Mapping[str, object], network: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, object] | None:
    """Load ``path`` into ``network`` and ``optimizer`` and return its state, or None when there is no such file.

    Raises SearchError when it was written by other work than ``identity`` describes, or is damaged.
    """
    if path is None or not path.exists():
        return None
    tensors, state = read_checkpoint(path)
    if state["identity"] != json.loads(json.dumps(identity)):
        raise SearchError(f"the checkpoint {path} belongs to other data or settings; delete it to start over")
    try:
        network.load_state_dict(_under("network.", tensors))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            slots.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, ValueError, KeyError) as error:
        raise SearchError(
            f"the checkpoint {path} does not fit its network ({error}); delete it to start over"
        ) from error
    return state


def keep(
    path: Path | None,
    identity: Mapping[str, object],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, object],
) -> None:
    """Write what `resume` needs to go on as if never interrupted; nothing when ``path`` is None."""
    if path is None:
        return
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in slots.items() if isinstance(value, Tensor)}
    write_checkpoint(path, tensors, {**state, "identity": dict(identity)})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_network(path: Path, network: nn.Module) -> None:
    """Load the weights of a finished training into ``network``. Raises SearchError when they are not its own."""
    tensors, _ = read_checkpoint(path)
    try:
        network.load_state_dict(_under("network.", tensors))
    except RuntimeError as error:
        raise SearchError(
            f"the checkpoint {path} does not fit its network ({error}); delete it to start over"
        ) from error
