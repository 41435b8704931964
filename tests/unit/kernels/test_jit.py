"""How kernels are compiled."""

import os
import subprocess
import sys

COMPILE = (
    "import logging; logging.basicConfig(level='INFO'); import nearsearch.kernels.{0}, "
    "nearsearch.kernels.{1}"
)


def test_compiling_is_told_once_and_not_again_when_it_is_cached(tmp_path):
    command = [sys.executable, "-c", COMPILE.format("keys", "blake2b")]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert said == ["INFO:nearsearch:compiling once: up to half a minute\n", ""]
