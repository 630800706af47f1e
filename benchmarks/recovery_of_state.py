"""How long a subtask with much state takes to recover: from copies on its machine, and from S3.

A RocksDB state of about `--megabytes` of incompressible values is uploaded to a real S3 server (versitygw, on this
machine) as a checkpoint, and restored: files fetched and verified, database opened, a key read. Compared to a plain
download of the same objects: streamed to files by a pool of threads, as many as a restore uses, nothing verified. At
double parallelism two subtasks, in two threads, each fetch everything and cut off what they do not own. Rounds take
turns, so that everything is measured under the same load; the median counts. The page cache is warm for all.

    python benchmarks/recovery_of_state.py [--megabytes 1000] [--rounds 3]

One JSON line per result.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from penstock.state.backend_factory import create_keyed_backend
from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.ids import Attempt, CheckpointId, JobId, new_nonce
from penstock.state.key_groups import KeyGroupRange, key_group
from penstock.state.rows.keyed_backend import RowBackend
from penstock.state.snapshots import KeyedHandle
from penstock.state.store.checkpoint_store import CheckpointStore
from penstock.state.store.downloads import PART_BYTES, Downloads
from penstock.state.store.local_copies import LocalCopies
from penstock.state.store.objects import OPS_AT_ONCE, run_program
from penstock.state.store.obstore_objects import ObstoreObjects
from penstock.state.store.packing import SubtaskUploads

JOB, CHECKPOINT = JobId("job"), CheckpointId(1)
GROUPS = 128
VALUE_BYTES = 4_000
LIMIT = 1.5
"""Of a restore from S3, to a plain download."""


class Subtasks:
    """Of one operator, one after the other."""

    def __init__(self, directory: Path, objects: ObstoreObjects) -> None:
        self.objects = objects
        self.copies = LocalCopies(directory / "local", JOB, "slot")
        store = CheckpointStore(JOB, new_nonce)
        self.uploads = SubtaskUploads(lambda checkpoint: store.uploads(Attempt(1), checkpoint, self.copies))
        self._directory = directory

    def open(self, groups: KeyGroupRange, directory: Path, restored: list[Any]) -> RowBackend:
        backend = create_keyed_backend(
            "rocksdb",
            operator_name="benchmark",
            key_groups=groups,
            max_parallelism=GROUPS,
            directory=directory / "state",
            uploads=self.uploads.of,
            now_ms=lambda: 0,
            restored=restored,
        )
        assert isinstance(backend, RowBackend)
        return backend

    def write(self, values: int) -> KeyedHandle:
        """The state, as a checkpoint; the database is gone afterwards, as that of a slot that died."""
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            backend = self.open(KeyGroupRange(0, GROUPS - 1), Path(directory), [])
            state = backend.value_state(ValueStateDescriptor[bytes]("value", bytes))
            for key in range(values):
                backend.set_current_key(key)
                state.update(os.urandom(VALUE_BYTES))
                if key % 1_000 == 0:
                    backend.between_batches()
            (handle,) = run_program(backend.snapshot(CHECKPOINT), self.objects)
            run_program(self.uploads.finish(CHECKPOINT), self.objects)
            backend.close()
        return handle

    def restore(self, handle: KeyedHandle, local: bool, groups: KeyGroupRange) -> float:
        """Seconds until the first key is read."""
        with tempfile.TemporaryDirectory(dir=self._directory) as name:
            began_s, directory = time.monotonic(), Path(name)
            downloads = Downloads(self.copies if local else None)
            run_program(downloads.fetch([(handle, directory / "fetched")]), self.objects)
            assert (downloads.so_far.stored == 0) is local
            backend = self.open(groups, directory, [(handle, directory / "fetched")])
            state = backend.value_state(ValueStateDescriptor[bytes]("value", bytes))
            backend.set_current_key(next(key for key in itertools.count() if key_group(key, GROUPS) in groups))
            assert len(state.value() or b"") == VALUE_BYTES
            took_s = time.monotonic() - began_s
            backend.close()
        return took_s

    def restore_all(self, handle: KeyedHandle, local: bool, parallelism: int) -> float:
        """Seconds until the last of the new subtasks is there."""
        ranges = [KeyGroupRange.of_subtask(index, parallelism, GROUPS) for index in range(parallelism)]
        with ThreadPoolExecutor(parallelism) as threads:
            return max(threads.map(lambda groups: self.restore(handle, local, groups), ranges))


def plain_download(store: Any, names: list[str], directory: Path) -> float:
    """Seconds."""

    def download(name: str) -> None:
        with (target / name.replace("/", "-")).open("wb") as file:
            for chunk in obstore.get(store, name).stream(min_chunk_size=PART_BYTES):
                file.write(chunk)

    with tempfile.TemporaryDirectory(dir=directory) as made:
        target, began_s = Path(made), time.monotonic()
        with ThreadPoolExecutor(OPS_AT_ONCE) as threads:
            list(threads.map(download, names))
        return time.monotonic() - began_s


def report(benchmark: str, value: float, unit: str, **more: Any) -> None:
    print(json.dumps({"benchmark": benchmark, "value": round(value, 2), "unit": unit} | more), flush=True)


def measure(directory: Path, objects: ObstoreObjects, store: Any, megabytes: int, rounds: int) -> None:
    subtasks = Subtasks(directory, objects)
    handle = subtasks.write(megabytes * 1_000_000 // VALUE_BYTES)
    names = sorted({file.name for file in handle.files.values()})
    gigabytes = sum(file.size_bytes for file in handle.files.values()) / 1e9
    cases: dict[str, Callable[[], float]] = {
        "plain download": lambda: plain_download(store, names, directory),
        "from S3": lambda: subtasks.restore_all(handle, local=False, parallelism=1),
        "from local copies": lambda: subtasks.restore_all(handle, local=True, parallelism=1),
        "from S3, at double parallelism": lambda: subtasks.restore_all(handle, local=False, parallelism=2),
        "from local copies, at double parallelism": lambda: subtasks.restore_all(handle, local=True, parallelism=2),
    }
    took_s: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, run in cases.items():
            took_s[case].append(run())
    plain_s = statistics.median(took_s["plain download"])
    for case, seconds in took_s.items():
        rounded = [round(each, 2) for each in seconds]
        value = statistics.median(seconds)
        report(f"recovery of state: {case}", value, "s", gigabytes=round(gigabytes, 2), rounds=rounded)
    to_plain = statistics.median(took_s["from S3"]) / plain_s
    report("recovery of state: from S3, to a plain download", to_plain, "ratio", limit=LIMIT, files=len(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "services"))
    from s3_server import S3Server  # type: ignore[import-not-found]  # of the tests

    directory = Path(tempfile.mkdtemp(prefix="recovery-"))
    server = S3Server(directory / "s3")
    (directory / "s3").mkdir()
    server.start()
    try:
        location, options = f"{server.create_bucket('benchmark')}/checkpoints", server.options
        store = S3Store.from_url(
            location,
            endpoint=options["s3.endpoint"],
            access_key_id=options["s3.access-key"],
            secret_access_key=options["s3.secret-key"],
            region=options["s3.region"],
            client_options={"allow_http": True},
        )
        measure(directory, ObstoreObjects(location, options), store, arguments.megabytes, arguments.rounds)
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
