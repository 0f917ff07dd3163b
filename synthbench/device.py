"""Device, threads and precision: the only file that asks about CUDA."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from synthbench import console
from synthbench.system import BATCH, COMPILE, cores, launched
from synthbench.types import UserError

WISHES = ("auto", "cpu", "cuda", "mps")
ABREAST = 2  # threads of `side_by_side` on a CPU: a constant, so that sums over their results do not depend on the machine

Item = TypeVar("Item")
Done = TypeVar("Done")


def pick_device(wish: str = "auto") -> tuple[torch.device, str]:
    """The device to work on, and why, in words for the user. `wish`: auto, cpu, cuda, cuda:N or mps.

    Raises UserError for a device that is not there.
    """
    kind = wish.split(":")[0]
    _, processes, local = launched()
    if processes > 1 and wish not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {wish!r} is one, and there are {processes} processes; leave --device out, each takes its own")
    if kind not in WISHES:
        raise UserError(f"device {wish!r} is not known; use one of {', '.join(WISHES)} or cuda:N")
    others = f", one of {processes} processes" if processes > 1 else ""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = wish = next(name for name in ("cuda", "mps", "cpu") if there[name])
        why = "the fastest device found" if kind != "cpu" else "no GPU found"
    else:
        why = "as asked"
    if not there[kind]:
        raise UserError(
            f"device {wish!r} is not available: torch {torch.__version__} finds no {kind.upper()} device here. Use --device cpu or auto"
        )
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise UserError(f"device {wish!r} is not understood; write cuda:0, cuda:1, ...") from None
    if kind == "cuda":
        if processes > 1:
            device = torch.device(f"cuda:{local}")
            torch.cuda.set_device(device)
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device {str(device)!r} is not available: this machine has {torch.cuda.device_count()} CUDA devices, numbered from 0"
            )
        deterministic()
        return device, f"{device}, {torch.cuda.get_device_name(device)} ({why}){others}"
    return device, f"cpu, {console.counted(torch.get_num_threads(), 'thread')} ({why}){others}" if kind == "cpu" else f"{wish} ({why})"


def shared_out(wish: str, number: int) -> str:
    """The device of process `number` of several that work side by side: GPUs in turn, where several are there and none was named."""
    there = torch.cuda.device_count() if wish in ("auto", "cuda") and torch.cuda.is_available() else 0
    return f"cuda:{number % there}" if there > 1 else wish


def gpus() -> int:
    """CUDA devices that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_name() -> str:
    """The name of the first CUDA device; empty when there is none."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def set_threads() -> int:
    """Threads for CPU work: SYNTHBENCH_THREADS, or the cores this process may use, shared out among those that work together here.

    Returns the number set.
    """
    text = os.environ.get("SYNTHBENCH_THREADS", "")
    if text and not (text.isdigit() and int(text) > 0):
        raise UserError(f"SYNTHBENCH_THREADS is {text!r}; it must be a whole number of at least 1")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched()[1] > 1 else 1
    torch.set_num_threads(int(text) if text else max(1, cores() // here))
    return torch.get_num_threads()


def sampling_batch() -> int:
    """Images to sample at a time where the device is no CPU: SYNTHBENCH_BATCH, or 64."""
    text = os.environ.get(BATCH, "64")
    if not (text.isdecimal() and int(text) > 0):
        raise UserError(f"{BATCH} is {text!r}; it must be a whole number of at least 1")
    return int(text)


def side_by_side(work: Callable[[Item], Done], items: Iterable[Item], device: torch.device) -> Iterator[Done]:
    """work(item) of every item, in order; on a CPU two at a time in threads of their own, which share the cores.

    Small layers do not split well over cores: two threads with half a batch each are almost twice as fast as two cores on one batch, and
    do not wait for each other at every layer. Autograd, autocast and inference mode belong to a thread: enter them in `work`.
    """
    if device.type != "cpu":
        yield from map(work, items)
        return
    threads = torch.get_num_threads()
    waiting: deque[Future[Done]] = deque()
    try:
        with ThreadPoolExecutor(min(ABREAST, threads), initializer=torch.set_num_threads, initargs=(max(1, threads // ABREAST),)) as pool:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == ABREAST:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """One thread of a CPU inside: for small operations, which are over before a second thread wakes, and on a busy machine wait for it."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def deterministic() -> None:
    """Ask CUDA for the same result from the same work on the same machine, on which resuming rests; costs a few percent.

    Without filling new memory, which torch does besides and which costs more.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast where it pays (CUDA) and is asked for; fp32 elsewhere. A CPU without bf16 units is slower in bf16."""
    if precision == "bf16" and device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def fp32(device: torch.device) -> AbstractContextManager[object]:
    """No autocast inside: for what bf16 would spoil."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)  # to ask torch broke graphs in 2.10


def exact(device: torch.device | str) -> torch.device:
    """Where to compute in 64 bits: on `device`, but for Apple's GPUs (mps), which have no such numbers, on the CPU."""
    chosen = torch.device(device)
    return torch.device("cpu") if chosen.type == "mps" else chosen


def ready(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a convolutional network to `device` in channels_last layout, which is faster on CUDA and, with oneDNN, on the CPU."""
    return module.to(device).to(memory_format=torch.channels_last)


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """`module`, whose forward pass is compiled as one graph, at its first call for every shape of its input, where that pays: on CUDA.

    The passes of an image over memory that are no convolution become few. Numbers differ in last bits, so the choice is in no key. Not
    for a network through whose gradient a gradient goes (R1), which torch cannot compile.
    """
    wish = os.environ.get(COMPILE, "auto")
    if wish not in ("auto", "off"):
        raise UserError(f"{COMPILE} is {wish!r}; it must be auto or off")
    if device.type == "cuda" and wish == "auto" and importlib.util.find_spec("triton") and (shutil.which("cc") or shutil.which("gcc")):
        module.compile(fullgraph=True, dynamic=False)
    return module


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device`; to CUDA through pinned memory and without waiting."""
    if device.type != "cuda":
        return tensor.to(device)
    if 0 in tensor.stride():  # an expanded tensor cannot be pinned
        tensor = tensor.contiguous()
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def peak_memory(device: torch.device) -> int:
    """Bytes of device memory at their highest so far; 0 where it is not known."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
