"""Workers with models that do what the test says, when it says so.

workers = ManualWorkers()
with OperatorHarness(operator, record_type=Row, workers=workers) as harness:
    harness.push(rows)
    ...                                # the operator goes on: it starts its workers
    workers.load(1)                    # worker 1 is ready; the operator goes on: it sends batches
    workers.run(1)                     # it answers the oldest batch that it has; or workers.kill(1): it dies with them
"""

from __future__ import annotations

import pyarrow as pa

from ..runtime.model_workers import CallEnded, LoadedModel, ModelSpec, Told, WorkerEnded, WorkerReady


class ManualWorkers:
    """Of one operator, which makes them with its model."""

    def __init__(self) -> None:
        self.started: list[int] = []
        """All, in order."""
        self.calls: dict[int, list[tuple[int, pa.RecordBatch]]] = {}
        """Batches of each worker that lives: (number, columns), the oldest first."""
        self.sent: list[list[int]] = []
        """For each batch that was sent, its number and how many records it has."""
        self.closed = False
        self._models: dict[int, LoadedModel] = {}
        self._spec: ModelSpec | None = None
        self._told: Told | None = None

    def __call__(self, spec: ModelSpec, told: Told) -> ManualWorkers:
        self._spec, self._told = spec, told
        return self

    # what the operator asks for

    def start(self, worker: int) -> None:
        self.started.append(worker)
        self.calls[worker] = []

    def call(self, worker: int, number: int, columns: pa.RecordBatch) -> None:
        self.calls[worker].append((number, columns))
        self.sent.append([number, columns.num_rows])

    def close(self) -> None:
        self.closed = True
        self.calls.clear()

    # what the test does

    @property
    def living(self) -> list[int]:
        return list(self.calls)

    def load(self, worker: int) -> None:
        """Its model is loaded, or its __init__ raises."""
        assert self._spec is not None, "no worker has been started"
        try:
            self._models[worker] = LoadedModel(self._spec)
        except Exception as error:
            self._tell(WorkerEnded(worker, "its model cannot be loaded", error))
        else:
            self._tell(WorkerReady(worker))

    def run(self, worker: int) -> None:
        """It answers the oldest batch that it has."""
        number, columns = self.calls[worker].pop(0)
        try:
            answer = CallEnded(worker, number, self._models[worker](columns))
        except Exception as error:
            answer = CallEnded(worker, number, error=error)
        self._tell(answer)

    def kill(self, worker: int, reason: str = "it was killed") -> None:
        """With all that it has."""
        del self.calls[worker]
        self._tell(WorkerEnded(worker, reason))

    def _tell(self, event: WorkerReady | WorkerEnded | CallEnded) -> None:
        assert self._told is not None, "no worker has been started"
        self._told(event)
