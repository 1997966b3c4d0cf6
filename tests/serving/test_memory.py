"""Freed memory stays with the process, where the C library can be told so."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import torch
from longview.serving.memory import keep_memory
if sys.argv[1] == "kept" and not keep_memory():
    print("deaf"); raise SystemExit
torch.empty(48_000_000, dtype=torch.uint8).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.empty(48_000_000, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_large_block_that_comes_again_is_not_cleared_by_the_kernel_again():
    kept = faults("kept")
    if kept == "deaf":
        pytest.skip("the C library is not glibc")
    assert int(kept) < 0.5 * int(faults("as it is"))
