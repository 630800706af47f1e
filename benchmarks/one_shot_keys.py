"""Keys that come once and never again: state is flat after they expire, and so is the time that a restart takes.

Work: one record per key, on RocksDB with the default budget, through a whole operator; a hundred keys a millisecond.

  timers    a KeyedProcessFunction keeps a value and registers a timer, which removes it
  sessions  session windows that a key opens and nothing extends
  ttl       a value that expires, and is swept

Two runs of each: `stream`, in which `--alive` keys are alive at a time, and `at once`, in which all keys are alive
before they expire together, while the watermark runs over them. Ten times on the way, and at the end, a checkpoint is
taken and restored in a process of its own.

    python benchmarks/one_shot_keys.py [--keys N] [--alive N] [--kind KIND] [--run stream|'at once']

One JSON line per result. `growth`: the second half of the stream against the first, the larger ones of each. Memory
is that of the process at its peak, against the slot's budget for state and work and what Python took before.
"""

from __future__ import annotations

import argparse
import gc
import json
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.runtime.configuration.config import Configuration
from penstock.runtime.functions import KeyedProcessFunction, RuntimeContext
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.operators.operator import Operator
from penstock.runtime.records.record_types import OPAQUE
from penstock.runtime.windows.building import window_operator
from penstock.runtime.windows.evaluations import Reduce
from penstock.runtime.windows.session_windows import EventTimeSessionWindows
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.snapshots import OperatorSnapshot
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.ttl_config import StateTtlConfig
from penstock.taskmanager.processes.memory_budget import memory_budget
from penstock.taskmanager.processes.process_metrics import rss_bytes
from penstock.testing.harness import OperatorHarness

BATCH = 1_000
KEYS_PER_MS = 100
MARKS = 10
KINDS, RUNS = ("timers", "sessions", "ttl"), ("stream", "at once")
FLAT = 1.2


class Remembering(KeyedProcessFunction):
    """A value of every key; a timer, or its TTL, removes it."""

    def __init__(self, gap_ms: int, by_ttl: bool) -> None:
        self.gap_ms = gap_ms
        self.by_ttl = by_ttl

    def open(self, runtime_context: RuntimeContext) -> None:
        ttl = StateTtlConfig(self.gap_ms) if self.by_ttl else None
        self.state: Any = runtime_context.get_state(ValueStateDescriptor("seen", int, ttl=ttl))

    def process_element(self, value: int, ctx: Any) -> None:
        self.state.update(value)
        if not self.by_ttl:
            ctx.timer_service().register_event_time_timer(ctx.timestamp() + self.gap_ms)

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Any]:
        self.state.clear()
        return iter(())


def itself(value: int) -> int:
    return value


def first(value: int, other: int) -> int:
    return value


def operator_of(kind: str, gap_ms: int) -> Operator:
    selector = KeyByFunction(itself)
    if kind == "sessions":
        return window_operator(selector, EventTimeSessionWindows(gap_ms), Reduce(first), OPAQUE)
    return KeyedProcessOperator(Remembering(gap_ms, kind == "ttl"), selector, OPAQUE)


class Run:
    """One stream of keys through one operator, and what it looked like on the way."""

    def __init__(self, kind: str, gap_ms: int, directory: Path) -> None:
        self._kind = kind
        self._gap_ms = gap_ms
        self._directory = directory
        self._store = ObstoreObjects(directory / "store")
        self.harness = OperatorHarness(operator_of(kind, gap_ms), backend="rocksdb", store=self._store)
        self.spent = 0.0
        """CPU seconds of the thread that owns the state."""
        self.bytes: list[int] = []
        self.restores: list[float] = []

    def feed(self, start: int, end: int) -> None:
        for number in range(start, end, BATCH):
            now_ms = number // KEYS_PER_MS
            keys = list(range(number, number + BATCH))
            began = time.thread_time()
            self.harness.push(keys, [now_ms] * BATCH)
            self.go_to(now_ms)
            self.spent += time.thread_time() - began

    def go_to(self, now_ms: int) -> None:
        if self._kind == "ttl":
            self.harness.advance_time(now_ms - self.harness.clock.now_ms())
        else:
            self.harness.watermark(now_ms)
        self.harness.take()

    def expire(self, now_ms: int) -> None:
        """All keys, of which none is younger."""
        began = time.thread_time()
        for step in range(1, 1_001):  # a sweep goes on with the clock
            self.go_to(now_ms + step * (self._gap_ms + 1_000) // 500)
        self.spent += time.thread_time() - began

    def settle(self) -> None:
        """Wait until RocksDB has compacted what it wants to."""
        compacting = 1
        while compacting:
            time.sleep(0.5)
            statistics = self.harness.operator.state_statistics()
            assert statistics is not None
            compacting = statistics.rocksdb["num-running-compactions"]

    def mark(self) -> None:
        snapshot = self.harness.snapshot()
        self.bytes.append(sum(file.size_bytes for file in snapshot.files()))
        self.restores.append(self._restore(snapshot))

    def _restore(self, snapshot: OperatorSnapshot) -> float:
        """CPU seconds from the files in the store until records may come: the machine may be shared."""
        place = self._directory / "snapshot"
        place.write_bytes(pickle.dumps(snapshot))
        command = [sys.executable, __file__, "--restore", str(self._directory), "--kind", self._kind]
        answer = subprocess.run([*command, "--gap", str(self._gap_ms)], capture_output=True, check=True, text=True)
        return float(answer.stdout)


def restore(kind: str, gap_ms: int, directory: Path) -> None:
    snapshot: OperatorSnapshot = pickle.loads((directory / "snapshot").read_bytes())
    store = ObstoreObjects(directory / "store")
    harness = OperatorHarness(operator_of(kind, gap_ms), backend="rocksdb", store=store, restored=[snapshot])
    began = time.process_time()
    with harness:
        print(time.process_time() - began)


def run(kind: str, how: str, keys: int, alive: int) -> None:
    gc.set_threshold(50_000, 50, 1_000)  # as slots do
    base = rss_bytes()
    alive = alive if how == "stream" else keys
    directory = Path(tempfile.mkdtemp(prefix="one-shot-keys-"))
    work = Run(kind, alive // KEYS_PER_MS, directory)
    try:
        with work.harness:
            part = keys // MARKS // BATCH * BATCH
            for number in range(MARKS):
                work.feed(number * part, (number + 1) * part)
                work.mark()
            work.expire(MARKS * part // KEYS_PER_MS)
            work.harness.snapshot()
            work.settle()
            work.mark()
            report(work, f"one-shot keys, {kind}, {how}", MARKS * part, base)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def report(work: Run, name: str, keys: int, base: int) -> None:
    sizes, restores = work.bytes[:-1], work.restores[:-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    budget = memory_budget(Configuration({"state.backend.type": "rocksdb"}), base)
    allowed = budget.process + budget.cells + budget.rocksdb + budget.work
    show(f"{name}: cost", work.spent / keys * 1e6, "us of CPU/key")
    if name.endswith("stream"):
        show(f"{name}: growth of state", growth(sizes), "ratio", limit=FLAT)
        show(f"{name}: growth of the time to restore", growth(restores), "ratio", limit=FLAT)
    show(f"{name}: largest state", max(sizes) / 1e6, "MB")
    show(f"{name}: state after all have expired", work.bytes[-1] / 1e6, "MB")
    show(f"{name}: longest restore", max(restores), "s of CPU")
    show(f"{name}: restore after all have expired", work.restores[-1], "s of CPU")
    show(f"{name}: peak memory", peak / allowed, "of the budget", limit=1.0, megabytes=round(peak / 1e6))


def growth(values: list[float] | list[int]) -> float:
    half = len(values) // 2
    return max(values[half:]) / max(values[:half])


def show(benchmark: str, value: float, unit: str, **more: float) -> None:
    print(json.dumps({"benchmark": benchmark, "value": round(value, 3), "unit": unit} | more), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--alive", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--run", choices=RUNS)
    parser.add_argument("--restore", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--gap", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.restore is not None:
        restore(arguments.kind, arguments.gap, arguments.restore)
    elif arguments.kind and arguments.run:
        run(arguments.kind, arguments.run, arguments.keys, arguments.alive)
    else:
        for kind in [arguments.kind] if arguments.kind else KINDS:
            for how in [arguments.run] if arguments.run else RUNS:  # each in a process of its own, for its memory
                size = ["--keys", str(arguments.keys), "--alive", str(arguments.alive)]
                subprocess.run([sys.executable, __file__, "--kind", kind, "--run", how, *size], check=True)


if __name__ == "__main__":
    main()
