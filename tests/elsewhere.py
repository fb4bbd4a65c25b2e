"""A device that is none: it computes on the CPU, and refuses tensors of the CPU, as a GPU does.

What runs here and there alike leaves no tensor on the CPU that belongs elsewhere. Its name is that of torch's "meta"
device, which needs no hardware.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.is_nonzero.default}


class Elsewhere(Tensor):
    """A tensor on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=torch.device(DEVICE),
        )

    def __init__(self, real: Tensor):
        self.held = real

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def tolist(self) -> Any:
        """Numbers, as any tensor's."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """While entered, the device is there.

    Attributes:
        copies: shapes of what was copied to it or from it.
        reads: how often the CPU asked for a number and waited for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[int, ...]] = []
        self.reads = 0

    def __enter__(self) -> Device:
        self._tensor = torch.tensor  # which asks no mode
        torch.tensor = self._make  # type: ignore[assignment]
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch.tensor = self._tensor  # type: ignore[assignment]
        super().__exit__(*exception)

    def _make(self, data: Any, *, device: Any = None, **named: Any) -> Tensor:
        made = self._tensor(data, **named)
        return made.to(device) if is_elsewhere(device) else made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = compute(func, args, kwargs)
        if func in COPIES and isinstance(args[-1], Elsewhere) != isinstance(result, Elsewhere):
            self.copies.append(tuple(result.shape))
        if func in READS and any(isinstance(leaf, Elsewhere) for leaf in tree_leaves((args, kwargs))):
            self.reads += 1
        return result


def is_elsewhere(device: Any) -> bool:
    """Whether a device that is asked for is ours."""
    return device is not None and torch.device(device).type == DEVICE


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation, on the CPU."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    others = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim()]
    if ours and others and func not in COPIES:
        raise RuntimeError(f"{func}: tensors on two devices, {[list(tensor.shape) for tensor in others]} on the CPU")
    there = is_elsewhere(kwargs["device"]) if kwargs.get("device") is not None else bool(ours)
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], Elsewhere)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    real_args, real_kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Elsewhere) else leaf, (args, kwargs))
    result = func(*real_args, **real_kwargs)
    if func in READS or not there:
        return result
    same = {id(tensor.held): tensor for tensor in ours}  # what changes in place is the tensor that it was

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return same[id(leaf)] if id(leaf) in same else Elsewhere(leaf)

    return tree_map(placed, result)


def moved(tree: Any) -> Any:
    """A tree of tensors, on the device."""
    return tree_map(lambda leaf: Elsewhere(leaf.detach().clone()) if isinstance(leaf, Tensor) else leaf, tree)


def back(tree: Any) -> Any:
    """The same on the CPU."""
    return tree_map(lambda leaf: leaf.held if isinstance(leaf, Elsewhere) else leaf, tree)
