"""The compiled kernels: built on first use where there is a compiler and the processor has what
they want."""

import ctypes
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from safelight.errors import CannotSave
from safelight.files import cache_folder, digest, writing

PROCESSOR = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mfma")
FLAGS = ("-O3", "-std=c++17", *PROCESSOR, "-fopenmp", "-shared", "-fPIC", "-w")


@cache
def library(name: str = "first_stage") -> ctypes.CDLL | None:
    """The kernels of a C++ file beside this one, or None where they cannot be had: their eager
    twins serve then.

    They want Linux, AVX-512 with bf16 products and a C++ compiler (``$CXX``, else ``c++``). What is
    built is kept in the cache folder under the hash of its source.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if sys.platform != "linux" or not torch.cpu._is_avx512_bf16_supported():
        return None
    source = Path(__file__).with_name(f"{name}.cpp")
    built = (
        cache_folder()
        / "kernels"
        / f"{name}-{digest([source.read_bytes(), ' '.join(FLAGS)])[:16]}.so"
    )
    try:
        if not built.exists():
            if compiler is None:
                return None
            with writing(built) as aside:
                subprocess.run(
                    [compiler, *FLAGS, str(source), "-o", str(aside)],
                    check=True,
                    capture_output=True,
                )
        return ctypes.CDLL(str(built))
    except (OSError, CannotSave, subprocess.CalledProcessError):
        return None


@cache
def matrix_units() -> bool:
    """Whether the processor multiplies bf16 matrices in tiles (AMX), several times as fast as in
    vectors."""
    return bool(torch.cpu._is_amx_tile_supported())


def usable(x: Tensor, *weights: Tensor) -> bool:
    """Whether a kernel may take this input with these weights: on a CPU, in their precision,
    nothing to be learned."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and all(one.dtype == x.dtype and one.device == x.device for one in weights)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def address(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def sizes(*numbers: int) -> ctypes.Array[ctypes.c_long]:
    return (ctypes.c_long * len(numbers))(*numbers)
