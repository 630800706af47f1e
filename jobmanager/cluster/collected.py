"""Records of `execute_and_collect` on a cluster: the job master's process keeps them, whoever asks fetches them.

They are kept in the cluster's store, one page per committable, so they survive the process that committed them. A
commit that is repeated finds its page by the committable's id. Who fetches names the last page that has arrived;
the records of it and of those before are deleted then. So a client that asks again after an error loses nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ...state.errors import ObjectNotFound
from ...state.ids import JobId
from ...state.serialization.pickling import dumps
from ...state.store.cluster_store import Page, empty_pages, get_page, list_pages, put_page
from ...state.store.objects import ObjectStore, run_program
from ..gateway import CollectedRows

REMEMBERED_PAGES = 10_000
"""Ids of fetched pages that are kept. Only committables of unconfirmed checkpoints are committed again."""
PAGES_PER_ANSWER = 64
POLL_S = 0.2


class CollectedPages:
    """The writing side, in the job master's process; committers of several sinks may call it at once."""

    def __init__(self, store: ObjectStore, job_id: JobId) -> None:
        self._store = store
        self._job_id = job_id
        self._known: dict[str, dict[str, int]] = {}
        """Collector -> id of page -> number."""
        self._lock = threading.Lock()

    def add(self, collector: str, committable: str, rows: list[Any]) -> None:
        """Blocks until they are stored. Raises ObjectStoreError: the commit is tried again then."""
        with self._lock:
            known = self._known.get(collector)
            if known is None:
                pages = run_program(list_pages(self._job_id, collector), self._store)
                known = self._known[collector] = {page.id: page.number for page in pages}
            if committable in known:
                return
            page = Page(max(known.values(), default=0) + 1, committable)
            run_program(put_page(self._job_id, collector, page, dumps(rows)), self._store)
            known[committable] = page.number


def fetch_waiting(
    store: ObjectStore, job_id: JobId, collector: str, after: int, wait_s: float, is_live: Callable[[], bool]
) -> CollectedRows:
    """`fetch`, which waits up to `wait_s` for something to come, as long as the job lives."""
    deadline_s = time.monotonic() + wait_s
    while True:
        live = is_live()  # asked first: what an ended job has committed is all there
        pages, position = fetch(store, job_id, collector, after)
        if pages or not live or time.monotonic() >= deadline_s:
            return CollectedRows(pages, position, finished=not live and not pages)
        time.sleep(POLL_S)


def fetch(store: ObjectStore, job_id: JobId, collector: str, after: int) -> tuple[tuple[bytes, ...], int]:
    """Pages (pickled lists of records) that follow number `after`, and the number to ask with next time."""
    pages = run_program(list_pages(job_id, collector), store)
    fetched = [page for page in pages if page.number <= after]
    if fetched and fetched[-1].number == after:
        run_program(empty_pages(job_id, collector, fetched, REMEMBERED_PAGES), store)
    found: list[bytes] = []
    for page in [page for page in pages if page.number > after][:PAGES_PER_ANSWER]:
        try:
            data = run_program(get_page(job_id, collector, page), store)
        except ObjectNotFound:  # another client fetched it
            data = b""
        if data:
            found.append(data)
        after = page.number
    return tuple(found), after
