"""Ranks: processes that train one network together, each on its share of every batch.

`torchrun` starts them and says by environment variables who they are. They talk through gloo
between CPUs and NCCL between GPUs. One process is rank 0 of 1, without `torch.distributed`.
"""

import contextlib
import os

import torch
import torch.distributed as dist

from engram.errors import InputError


@contextlib.contextmanager
def joined(device):
    """Join the other ranks, if torchrun started any, for the block, on "cpu" or "cuda".

    Yields the device of this rank: "cpu", "cuda", or "cuda:1" and so on among several.

    Raises:
        InputError: there are fewer GPUs than ranks on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        if local >= (gpus := torch.cuda.device_count()):
            raise InputError(f"ranks: process {local} finds {gpus} GPUs; start one a GPU")
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0; rank 0 speaks and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def add(tensors):
    """Replace each tensor, of any shape, by its sum over all ranks, in one message."""
    if size() > 1 and tensors:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def add_gradients(parameters):
    """Sum the gradients over all ranks; None counts as zeros, where some rank has one."""
    if size() == 1:
        return
    has = [p.grad is not None for p in parameters]
    used = parameters[0].new_tensor(has, requires_grad=False)
    gradients = [
        p.grad if own else torch.zeros_like(p) for p, own in zip(parameters, has, strict=True)
    ]
    add([*gradients, used])
    for p, gradient, count in zip(parameters, gradients, used.tolist(), strict=True):
        p.grad = gradient if count else None


def follow(tensors):
    """Replace each tensor, on the device of this rank, by that of rank 0."""
    if size() > 1:
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)


def gathered(tensor) -> torch.Tensor:
    """The tensors of all ranks, (ranks, ...), of one shape, on the CPU."""
    if size() == 1:
        return tensor.detach().cpu()[None].clone()
    sent = tensor.detach().to("cuda" if dist.get_backend() == "nccl" else "cpu").contiguous()
    parts = [torch.empty_like(sent) for _ in range(size())]
    dist.all_gather(parts, sent)
    return torch.stack(parts).cpu()


def gather(tensor) -> torch.Tensor:
    """Rows of all ranks one after the other, with their gradient: (b, ...) -> (sum of b, ...).

    For a loss in which all rows of a batch meet. If each rank weighs its loss by its share of the
    rows, as the training loop does, gradients that are summed over ranks are those of one process
    that holds the batch whole. Ranks may hold different numbers of rows.
    """
    return _Gathered.apply(tensor) if size() > 1 else tensor


class _Gathered(torch.autograd.Function):
    """A row is seen by the losses of all ranks: its gradient is the sum of theirs."""

    @staticmethod
    def forward(context, tensor):
        context.counts = gathered(torch.tensor(len(tensor))).tolist()
        sent = tensor.new_zeros(max(context.counts), *tensor.shape[1:])
        sent[: len(tensor)] = tensor
        parts = [torch.empty_like(sent) for _ in context.counts]
        dist.all_gather(parts, sent)
        return torch.cat([part[:n] for part, n in zip(parts, context.counts, strict=True)])

    @staticmethod
    def backward(context, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.split(context.counts)[rank()]
