"""What a process uses of its machine, for REST and Prometheus (which give it Flink's names)."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback

import psutil

_process = psutil.Process()


def process_metrics() -> dict[str, float]:
    """Of this process. Sizes in bytes, times in seconds."""
    with _process.oneshot():
        memory, cpu = _process.memory_info(), _process.cpu_times()
        metrics = {
            "memory.rss_bytes": float(memory.rss),
            "memory.virtual_bytes": float(memory.vms),
            "cpu.user_seconds": cpu.user,
            "cpu.system_seconds": cpu.system,
            "threads.count": float(_process.num_threads()),
            "files.open": float(_process.num_fds()),
            "uptime_seconds": time.time() - _process.create_time(),
        }
    for generation, statistics in enumerate(gc.get_stats()):
        metrics[f"gc.generation{generation}.collections"] = float(statistics["collections"])
        metrics[f"gc.generation{generation}.collected"] = float(statistics["collected"])
    return metrics


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(_process.memory_info().rss)


def cpu_seconds() -> float:
    times = _process.cpu_times()
    return float(times.user + times.system)


def thread_dump() -> dict[str, str]:
    """Thread -> its stack, now. A thread's number tells threads of one name apart."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        f"{names.get(ident, 'thread')} ({ident})": "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
    }
