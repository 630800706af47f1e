"""Verbs about jobs of a cluster: list, describe, cancel, checkpoints, logs."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ...runtime.units import format_size
from ...state.errors import PenstockError
from .. import session
from . import common
from .common import AddressFlag, JobArgument, Output, OutputFlag, UsageError, YesFlag, show_duration, show_time, telling

if TYPE_CHECKING:
    from ...jobmanager.views import CheckpointsView, CheckpointView, JobView, VertexView
    from ..rest_client import JobRow, LogRow, RestClient

CANCEL_TIMEOUT_S = 90.0
"""What a cancel waits for has limits of its own: commits, functions that do not return, each 30 s by default."""
LOOK_S = 0.1


@telling
def list_jobs(
    address: AddressFlag = None,
    everything: Annotated[bool, typer.Option("--all", "-A", help="Also jobs that have ended.")] = False,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Show the jobs of a cluster."""
    with common.cluster(address) as client:
        rows = client.jobs()
    shown = [row for row in rows if everything or row.is_live]
    if output is Output.JSON:
        common.print_json([_row(row) for row in shown])
        return
    if shown:
        cells = [
            [row.id, row.name, row.state, show_time(row.started_ms), show_duration(row.duration_ms), _tasks(row)]
            for row in shown
        ]
        common.print_table(("JOB", "NAME", "STATE", "STARTED (UTC)", "DURATION", "TASKS"), cells)
    else:
        session.say("no job is running")
    if len(shown) < len(rows):
        session.say(f"{len(rows) - len(shown)} more have ended: --all shows them")


def _row(row: JobRow) -> dict[str, Any]:
    return {
        "job_id": row.id,
        "job_name": row.name,
        "state": row.state,
        "started_ms": row.started_ms,
        "ended_ms": row.ended_ms,
        "duration_ms": row.duration_ms,
        "tasks": row.tasks,
    }


def _tasks(row: JobRow) -> str:
    states = [f"{count} {state}" for state, count in row.tasks.items() if count and state != "total"]
    return ", ".join(states) or "-"


@telling
def describe(job: JobArgument, address: AddressFlag = None, output: OutputFlag = Output.TEXT) -> None:
    """Show a job: its tasks and how they are doing, its checkpoints, what went wrong."""
    from ...jobmanager.skew import skew_hint  # with it comes numpy

    with common.cluster(address) as client:
        view = client.job(common.find_job(client, job).id)
    if output is Output.JSON:
        common.print_json(msgspec.to_builtins(view))
        return
    overview = view.overview
    typer.echo(f"job {overview.id} '{overview.name}': {overview.state}")
    typer.echo(f"started {show_time(overview.started_ms)}, ended {show_time(overview.ended_ms)} (UTC)")
    typer.echo(f"attempt {view.attempt}, {view.restarts} restarts, restart strategy {view.restart_strategy or '-'}\n")
    common.print_table(
        ("TASK", "PARALLELISM", "STATES", "IN", "OUT", "IN/s", "BUSY", "BACKPRESSURED", "WATERMARK (UTC)"),
        [_vertex_cells(vertex) for vertex in view.vertices],
    )
    typer.echo(f"\n{_checkpoints_line(view)}")
    for warning in view.warnings:
        typer.echo(f"warning: {warning}")
    for hint in filter(None, map(skew_hint, view.vertices)):
        typer.echo(f"skew: {hint}")
    for failure in view.exceptions[:3]:
        where = f" in {failure.task}" if failure.task else ""
        typer.echo(f"\n{show_time(failure.timestamp_ms)}{where}: {failure.message}")
    if view.exceptions and "File " in view.exceptions[0].stacktrace:  # else it says once more what happened
        typer.echo(f"\n{view.exceptions[0].stacktrace.rstrip()}")


def _vertex_cells(vertex: VertexView) -> list[str]:
    from ...runtime.elements import MAX_WATERMARK, MIN_WATERMARK  # with it come pyarrow and numpy

    metrics = [subtask.metrics for subtask in vertex.subtasks]
    states = Counter(subtask.state for subtask in vertex.subtasks)
    count = max(1, len(metrics))
    watermark = min((m.watermark for m in metrics), default=MIN_WATERMARK)
    return [
        vertex.name,
        str(vertex.parallelism),
        ", ".join(f"{number} {state}" for state, number in states.items()),
        f"{sum(m.records_in for m in metrics):,}",
        f"{sum(m.records_out for m in metrics):,}",
        f"{sum(m.records_in_rate for m in metrics):,.0f}",
        f"{sum(m.busy_rate for m in metrics) / count / 10:.0f} %",
        f"{sum(m.backpressured_rate for m in metrics) / count / 10:.0f} %",
        show_time(watermark) if MIN_WATERMARK < watermark < MAX_WATERMARK else "-",
    ]


def _restored(view: JobView) -> str:
    restored = view.checkpoints.latest_restored
    if restored is None:
        return ""
    files = [subtask.metrics.details.restored for vertex in view.vertices for subtask in vertex.subtasks]
    done, total, local = (sum(getattr(one, name) for one in files) for name in ("done", "total", "local"))
    size = f"{format_size(done)} of {format_size(total)}" if done < total else format_size(total)
    amount = f": {size} of files, {format_size(local)} of it from copies on the machines" if total else ""
    return f"; restored from: {restored.id} at {show_time(restored.restored_ms)}{amount}"


def _checkpoints_line(view: JobView) -> str:
    if view.checkpoint_config is None:
        return "checkpoints are off"
    checkpoints: CheckpointsView = view.checkpoints
    last = checkpoints.latest_completed
    told = "" if last is None else f"; the last: {last.id} at {show_time(last.triggered_ms)}, {last.external_path}"
    return (
        f"checkpoints every {show_duration(view.checkpoint_config.interval_ms)} to {view.checkpoint_config.storage}: "
        f"{checkpoints.completed} completed, {checkpoints.failed} failed, {checkpoints.in_progress} in progress"
        f"{told}{_restored(view)}"
    )


@telling
def cancel(
    job: JobArgument, address: AddressFlag = None, yes: YesFlag = False, output: OutputFlag = Output.TEXT
) -> None:
    """End a job at once. It can be continued from its last checkpoint with `run -s`."""
    with common.cluster(address) as client:
        found = common.live_job(client, job)
        common.confirm(f"Cancel job {found.id} '{found.name}' on {client.address}?", yes)
        client.cancel(found.id)
        view = await_end(client, found.id)
    state = view.overview.state
    if output is Output.JSON:
        common.print_json({"job_id": found.id, "job_name": found.name, "state": state})
    else:
        session.say(f"job {found.id} '{found.name}': {state}")
    for trouble in reversed(view.exceptions):
        if trouble.timestamp_ms >= view.timestamps.get("CANCELING", view.overview.ended_ms):
            session.say(trouble.message)


def await_end(client: RestClient, job_id: str) -> JobView:
    """Of a job that was asked to end."""
    deadline_s = time.monotonic() + CANCEL_TIMEOUT_S
    while time.monotonic() < deadline_s:
        view = client.job(job_id)
        if view.overview.ended_ms > 0:
            return view
        time.sleep(LOOK_S)
    raise PenstockError(
        f"job {job_id} was asked to end {CANCEL_TIMEOUT_S:.0f} s ago and has not; `penstock describe` it"
    )


@telling
def checkpoints(job: JobArgument, address: AddressFlag = None, output: OutputFlag = Output.TEXT) -> None:
    """Show a job's checkpoints, the newest first."""
    with common.cluster(address) as client:
        view = client.job(common.find_job(client, job).id)
    if output is Output.JSON:
        common.print_json(msgspec.to_builtins(view.checkpoints))
        return
    common.print_table(
        ("CHECKPOINT", "STATE", "TRIGGERED (UTC)", "DURATION", "WRITTEN", "STATE SIZE", "WHERE, OR WHY NOT"),
        [_checkpoint_cells(checkpoint) for checkpoint in view.checkpoints.history],
    )
    typer.echo(_checkpoints_line(view), err=True)


def _checkpoint_cells(view: CheckpointView) -> list[str]:
    where = view.failure or ("deleted" if view.discarded else view.external_path) or "-"
    return [
        str(view.id),
        view.status,
        show_time(view.triggered_ms),
        show_duration(view.duration_ms),
        format_size(view.checkpointed_bytes),
        format_size(view.state_bytes),
        where,
    ]


@telling
def logs(
    of: Annotated[
        str | None,
        typer.Argument(help="A job, or a task manager; without it the job manager.", metavar="[JOB|TASKMANAGER]"),
    ] = None,
    address: AddressFlag = None,
    file: Annotated[str | None, typer.Option("--file", "-f", help="This file of a process.")] = None,
    names: Annotated[bool, typer.Option("--list", "-l", help="Only names and sizes of the files.")] = False,
    printed: Annotated[bool, typer.Option("--stdout", help="What was printed, in the place of the log.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-t", help="So many lines of each file; 0: all.", min=0)] = 200,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Show logs of a job's slots, of a task manager, or of the job manager."""
    with common.cluster(address) as client:
        found = _files(client, of, ".out" if printed else ".log", file, names)
        if names:
            _print_names(found, output)
            return
        texts = [(process, row.name, _tail(client.log(process, row.name), tail)) for process, row in found]
    if output is Output.JSON:
        common.print_json([{"process": p or "jobmanager", "file": name, "text": text} for p, name, text in texts])
        return
    for process, name, text in texts:
        if len(texts) > 1:
            session.say(f"==> {process or 'jobmanager'} {name}")
        typer.echo(text, nl=not text.endswith("\n"))


File = tuple[str | None, "LogRow"]
"""Task manager, or None for the job manager; and what it has."""


def _files(client: RestClient, of: str | None, suffix: str, file: str | None, names: bool) -> list[File]:
    """What is meant. UsageError: no such process, no such file."""
    managers = [] if of is None else [manager["id"] for manager in client.task_managers()]
    if of is None or of in managers:
        found: list[File] = [(of, row) for row in client.logs(of)]
        own = f"{of or 'jobmanager'}{suffix}"
        wanted = {file or (own if any(row.name == own for _, row in found) else _newest(found, suffix))}
    else:
        found = _of_job(client, client.job(common.find_job(client, of).id))
        wanted = {row.name for _, row in found if row.name == file or (file is None and row.name.endswith(suffix))}
    chosen = found if names else [pair for pair in found if pair[1].name in wanted]
    if not chosen and not names:
        raise UsageError(f"{of or 'the job manager'} has no such file; --list shows those there are")
    return chosen


def _newest(found: list[File], suffix: str) -> str:
    rows = [row for _, row in found if row.name.endswith(suffix)]
    return max(rows, key=lambda row: row.modified_ms).name if rows else ""


def _of_job(client: RestClient, view: JobView) -> list[File]:
    """Of the processes that work for it now: its master, its slots (of an ended job only the master's are known)."""
    found: list[File] = [(None, row) for row in client.logs(None) if view.overview.id in row.name]
    subtasks = [subtask for vertex in view.vertices for subtask in vertex.subtasks]
    places = {(it.task_manager, it.slot) for it in subtasks if it.task_manager and it.slot}
    for manager in sorted({manager for manager, _ in places}):
        slots = tuple(slot for place, slot in places if place == manager)
        found += [(manager, row) for row in client.logs(manager) if row.name.startswith(slots)]
    return found


def _print_names(found: list[File], output: Output) -> None:
    if output is Output.JSON:
        rows = [(process or "jobmanager", row.name, row.size_bytes, row.modified_ms) for process, row in found]
        common.print_json(
            [dict(zip(("process", "file", "size_bytes", "modified_ms"), row, strict=True)) for row in rows]
        )
        return
    cells = [[p or "jobmanager", row.name, format_size(row.size_bytes), show_time(row.modified_ms)] for p, row in found]
    common.print_table(("PROCESS", "FILE", "SIZE", "CHANGED (UTC)"), cells)


def _tail(content: bytes, lines: int) -> str:
    text = content.decode(errors="replace")
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else text
