"""The hashing process: one request a line on standard input, one answer a line on another pipe.

Decoders meet hostile files here and nowhere else. A crash, a hang or a memory bomb takes this
process, never the one that holds the index. Lines are JSON; file names travel with surrogate
escapes, so every byte of them survives.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from typing import Any

from nearsearch.errors import MediaError, NotMediaError
from nearsearch.spec import Spec
from nearsearch.version import __version__


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)  # whatever a decoder prints must not look like an answer
    _limit_memory(int(sys.argv[1]))
    from nearsearch.media.fingerprint import fingerprint

    answers.write(json.dumps({"status": "ready", "version": __version__}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        specs = [Spec(**spec) for spec in request["specs"]]
        answer: dict[str, Any]
        try:
            found = fingerprint(
                request["path"],
                specs,
                max_pixels=request["max_pixels"],
                max_bytes=request["max_bytes"],
            )
            answer = {"status": "hashed", **asdict(found)}
        except NotMediaError as error:
            answer = {"status": "skipped", "reason": error.reason, "stage": error.stage}
        except MediaError as error:
            answer = {"status": "failed", "reason": error.reason, "stage": error.stage}
        except MemoryError:
            answer = {"status": "failed", "reason": "out of memory", "stage": "decode"}
        except Exception as error:  # one file's surprise must not end the others' work
            reason = f"{type(error).__name__}: {error}"
            answer = {"status": "failed", "reason": reason, "stage": "hash"}
        answers.write(json.dumps(answer) + "\n")


def _limit_memory(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, highest = resource.getrlimit(resource.RLIMIT_AS)
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
