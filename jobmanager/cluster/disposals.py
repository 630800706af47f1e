"""Savepoints that people want to be deleted, by request id, while that is done and for a while after (Flink's savepoint
disposal handlers). Nothing of it outlives the dispatcher: asked again it deletes what is left, or says that nothing is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...state.savepoints.disposal import check_disposable, dispose_of
from ..gateway import UnavailableError
from ..operations import UNDER_WAY, still_known, too_many
from ..views import DisposalOperation, OperationState

THREADS = 2

logger = logging.getLogger(__name__)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Disposals:
    """Asked from many threads."""

    def __init__(
        self,
        options: Mapping[str, str],
        dispose: Callable[[str, Mapping[str, str]], int] = dispose_of,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        """`options`: how stores are reached."""
        self._options = options
        self._dispose = dispose
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._operations: dict[str, DisposalOperation] = {}
        self._threads = ThreadPoolExecutor(THREADS, "disposal")

    def begin(self, path: str, request: str) -> None:
        """A request that is known is not begun again. ConfigurationError: no savepoint can be there; UnavailableError:
        too many are under way."""
        directory = check_disposable(path)
        with self._lock:
            self._operations = still_known(self._operations, self._now_ms())
            if request in self._operations:
                return
            if too_many(self._operations):
                raise UnavailableError(f"{UNDER_WAY} savepoints are being disposed of already; try again")
            operation = DisposalOperation(request, directory, OperationState.IN_PROGRESS)
            self._operations[request] = operation
        self._threads.submit(self._carry_out, operation)

    def find(self, request: str) -> DisposalOperation | None:
        with self._lock:
            return self._operations.get(request)

    def _carry_out(self, operation: DisposalOperation) -> None:
        state, failure = OperationState.COMPLETED, None
        try:
            deleted = self._dispose(operation.path, self._options)
            logger.info("savepoint %s is disposed of: %d objects", operation.path, deleted)
        except Exception as error:  # whatever it is, whoever asks is told
            state, failure = OperationState.FAILED, str(error)
            logger.warning("savepoint %s cannot be disposed of: %s", operation.path, error)
        with self._lock:
            ended = replace(operation, state=state, failure=failure, ended_ms=self._now_ms())
            self._operations[operation.request] = ended
