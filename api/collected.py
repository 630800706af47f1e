"""The records of a stream, handed to the program that runs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..connectors.collect import COLLECT, Collector
from .interruption import interrupted
from .job_client import JobClient, JobResult

if TYPE_CHECKING:
    from .streams import DataStream
    from .targets import Job


class Collected(Iterator[Any]):
    """Records come with the checkpoints that complete them. Iterating runs a job of this process on this thread, as
    far as needed; of a job on a cluster it fetches them.

    Closing it (or leaving `with`, or taking the last record that was asked for) ends the job.
    """

    def __init__(self, client: Job, collector: Collector, limit: int | None) -> None:
        self._client = client
        self._source = client.rows(collector) if isinstance(client, JobClient) else client.rows(collector.name)
        self._left = limit
        self._rows: deque[Any] = deque()
        self.result: JobResult | None = None
        """Of the job, once it has ended."""

    def run(self) -> None:
        """The job to its end; records wait here."""
        self.result = self._client.run()
        while (rows := self._source.more()) is not None:
            self._rows.extend(rows)
        self._source.close()

    def __next__(self) -> Any:
        if self._left == 0:
            self.close()
            raise StopIteration
        while not self._rows and self.result is None:
            rows = self._source.more()
            if rows is None:
                self._finish()
            else:
                self._rows.extend(rows)
        if not self._rows:
            raise StopIteration
        if self._left is not None:
            self._left -= 1
        return self._rows.popleft()

    def close(self) -> None:
        """Cancel the job if it still runs; records that are not taken yet are dropped."""
        self._rows.clear()
        if self.result is None:
            self._source.close()
            self._client.cancel()
            self._client.run_until(lambda: False)
            self._finish()

    def _finish(self) -> None:
        self._source.close()
        self._client.run_until(lambda: False)
        self.result = self._client.finish()

    def __enter__(self) -> Collected:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def collect(stream: DataStream, job_name: str | None, limit: int | None) -> Collected:
    env = stream._env
    name = env.pipeline.free_name("collect")
    collector = Collector(name)
    step = stream.sink_to(collector.sink(), name=name)._step
    assert step is not None, "a sink is a step"
    step.kind = COLLECT
    bounded = env.is_bounded()
    try:
        collected = Collected(env.submit(job_name), collector, limit)
        if bounded and limit is None:
            collected.run()
    except KeyboardInterrupt as error:
        raise interrupted(error).with_traceback(None) from None
    return collected
