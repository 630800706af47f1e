"""The records of a stream, handed to the program that runs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..connectors.collect import Collector
from .job_client import JobClient, JobResult

if TYPE_CHECKING:
    from .streams import DataStream


class Collected(Iterator[Any]):
    """Iterating runs the job on this thread, as far as needed; records come with the checkpoints that complete them.

    Closing it (or leaving `with`, or taking the last record that was asked for) ends the job.
    """

    def __init__(self, client: JobClient, collector: Collector, limit: int | None) -> None:
        self._client = client
        self._collector = collector
        self._left = limit
        self._rows: deque[Any] = deque()
        self.result: JobResult | None = None
        """Of the job, once it has ended."""

    def run(self) -> None:
        """The job to its end; records wait here."""
        self.result = self._client.run()
        self._rows.extend(self._collector.take())
        self._collector.close()

    def __next__(self) -> Any:
        if self._left == 0:
            self.close()
            raise StopIteration
        while not self._rows and self.result is None:
            self._drive()
        if not self._rows:
            raise StopIteration
        if self._left is not None:
            self._left -= 1
        return self._rows.popleft()

    def _drive(self) -> None:
        def arrived() -> bool:
            self._rows.extend(self._collector.take())
            return bool(self._rows)

        if self._client.run_until(arrived):
            arrived()
            self._finish()

    def close(self) -> None:
        """Cancel the job if it still runs; records that are not taken yet are dropped."""
        self._rows.clear()
        if self.result is None:
            self._collector.close()
            self._client.cancel()
            self._client.run_until(lambda: False)
            self._finish()

    def _finish(self) -> None:
        self._collector.close()
        self.result = self._client.finish()

    def __enter__(self) -> Collected:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def collect(stream: DataStream, job_name: str | None, limit: int | None) -> Collected:
    collector = Collector()
    env = stream._env
    stream.sink_to(collector.sink(), name=env.pipeline.free_name("collect"))
    bounded = env.is_bounded()
    collected = Collected(env.submit(job_name), collector, limit)
    if bounded and limit is None:
        collected.run()
    return collected
