"""State that grows for ever, because its keys never come again, and what a TTL does about it.

Every session is counted under a key of its own. When it is over, nobody asks for that key again, and its state stays:
state and checkpoints grow with the time that the job runs. With `ttl=StateTtlConfig(...)` what has not been written for
that long is removed. The same visits are counted both ways, and the size of every checkpoint is drawn.

    python examples/state_explosion.py
    penstock run examples/state_explosion.py --local -- --visits 200000
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json

VISITS_A_SESSION = 4
TTL = "500ms"
"""A real one would be hours: longer than a session pauses."""
LOOK_S = 0.02
WIDTH = 60


@dataclass(frozen=True)
class Visit:
    session: str
    page: int


@dataclass(frozen=True)
class SessionEnd:
    session: str
    visits: int


class Sessions(ps.KeyedProcessFunction):
    """Tells when a session is complete. It remembers how many visits there were, and forgets nothing by itself."""

    def __init__(self, ttl: str | None) -> None:
        self.ttl = ttl

    def open(self, context: ps.RuntimeContext) -> None:
        ttl = None if self.ttl is None else ps.StateTtlConfig(self.ttl)
        self.visits = context.get_state(ps.ValueStateDescriptor[int]("visits", int, ttl=ttl))

    def process_element(self, visit: Visit, context: Any) -> Iterator[SessionEnd]:
        visits = (self.visits.value() or 0) + 1
        self.visits.update(visits)
        if visits == VISITS_A_SESSION:
            yield SessionEnd(visit.session, visits)


def write_visits(path: Path, count: int) -> Path:
    """As NDJSON, the visits of a session one after the other. Written once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        visits = (Visit(f"session-{n // VISITS_A_SESSION:09}", n % 100) for n in range(count))
        unfinished = path.with_name(f"_{path.name}")
        unfinished.write_text("".join(f"{json.dumps(asdict(visit))}\n" for visit in visits), encoding="utf-8")
        unfinished.rename(path)
    return path


def build(env: ps.StreamExecutionEnvironment, data: Path, rate: int, ttl: str | None, out: Path) -> None:
    visits = env.from_source(FileSource(str(data), Json(Visit), rate_limit=rate), name="visits").uid("visits")
    sessions = visits.key_by(lambda visit: visit.session, key_type=str).process(
        Sessions(ttl), output_type=SessionEnd, name="sessions"
    )
    sessions.uid("sessions").sink_to(FileSink(str(out), Json()), name="ends").uid("ends")


def run(data: Path, rate: int, ttl: str | None, out: Path) -> list[tuple[float, int]]:
    """(seconds since the start, bytes of state) at each checkpoint that was seen."""
    shutil.rmtree(out, ignore_errors=True)
    env = ps.StreamExecutionEnvironment()
    env.set_state_backend("heap").enable_checkpointing("200ms")  # on the heap every checkpoint has all of the state
    build(env, data, rate, ttl, out)
    job = env.execute_async(f"sessions {'without' if ttl is None else 'with'} a TTL")
    began_s = time.monotonic()
    sizes: dict[int, tuple[float, int]] = {}
    while True:
        status = job.status()
        last = status.checkpoints.last_completed
        if last is not None and last not in sizes:
            sizes[last] = time.monotonic() - began_s, status.checkpoints.last_uploaded_bytes
        if status.state.is_terminal:
            break
        time.sleep(LOOK_S)
    job.result()
    return list(sizes.values())


def draw(title: str, sizes: list[tuple[float, int]], most: int) -> None:
    print(title)
    for at_s, size in sizes[:: max(1, len(sizes) // 20)]:
        print(f"{at_s:>6.1f} s {size / 1024:>9,.0f} KiB {'#' * round(WIDTH * size / most)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="State of keys that never come again, without and with a TTL.")
    parser.add_argument("--data", type=Path, default=Path(".penstock/visits.json"))
    parser.add_argument("--out", type=Path, default=Path(".penstock/state_explosion"))
    parser.add_argument("--visits", type=int, default=60_000, help="how many to make, if there are none")
    parser.add_argument("--rate", type=int, default=20_000, help="visits a second")
    arguments = parser.parse_args()
    data = write_visits(arguments.data, arguments.visits)
    without = run(data, arguments.rate, None, arguments.out / "without")
    with_ttl = run(data, arguments.rate, TTL, arguments.out / "with")
    most = max(size for _, size in [*without, *with_ttl])
    draw("without a TTL", without, most)
    draw(f"with a TTL of {TTL}", with_ttl, most)


if __name__ == "__main__":
    main()
