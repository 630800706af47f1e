"""The garbage collector while a job runs.

State and batches are hundreds of thousands of live objects without cycles, and Python's default thresholds would
look through them again and again: a fifth of the time of a per-record pipeline. While a job runs, young objects are
looked at every 50,000 allocations, old ones rarely, and what was there before the job (modules, the pipeline) never.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = 50_000, 20, 100


class _Collector:
    """The process's collector, and how many jobs run in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs = 0
        self._usual = gc.get_threshold()
        self._froze = False

    def job_begins(self) -> None:
        with self._lock:
            self._jobs += 1
            if self._jobs == 1:
                self._usual = gc.get_threshold()
                gc.set_threshold(*THRESHOLDS)
                self._froze = gc.get_freeze_count() == 0
                if self._froze:
                    gc.freeze()

    def job_ends(self) -> None:
        with self._lock:
            self._jobs -= 1
            if self._jobs == 0:
                gc.set_threshold(*self._usual)
                if self._froze:
                    gc.unfreeze()


_collector = _Collector()


@contextmanager
def rare_collections() -> Iterator[None]:
    """While a job runs in this process; afterwards everything is as it was."""
    _collector.job_begins()
    try:
        yield
    finally:
        _collector.job_ends()
