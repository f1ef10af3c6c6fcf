"""What work costs, counted without doing it: operations and bytes of tensors on the meta device."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions in work on meta tensors."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def count_bytes(work: Callable[[], object]) -> int:
    """Most bytes that work on meta tensors holds at a time, beyond what was there before it."""
    with _FusedAttention(), _Allocations() as allocations:
        work()
    return allocations.most


def count_training_bytes(work: Callable[[], Callable[[], object]]) -> int:
    """Most bytes that a training step holds at a time. work: makes what is there before, and returns the step.

    Both run on tensors that claim to be a CPU's and have no memory: there attention is fused and autocast is known,
    which the meta device lacks.
    """
    with FakeTensorMode():
        step = work()
        with _Allocations() as allocations:
            step()
    return allocations.most


def weight_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(value.nbytes for value in [*module.parameters(), *module.buffers()])


class _FusedAttention(TorchFunctionMode):
    """On the meta device attention is taken apart into products, whose scores no real device would store."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            query, _, value = args
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


class _Allocations(TorchDispatchMode):
    """Adds up the storages that operations make, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage(), given)
        return result

    def _hold(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known or key in given:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
