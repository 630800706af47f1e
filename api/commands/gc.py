"""`penstock gc LOCATION`: list, or delete, what a store holds that nothing needs (state/store/garbage.py)."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...runtime.units import parse_duration_ms
from ...state.errors import ConfigurationError
from . import common
from .common import ConfigFlag, Output, OutputFlag, UsageError, telling

if TYPE_CHECKING:
    from ...state.store.garbage import Candidate, Findings

SHOWN_NAMES = 5
"""Per reason, in the text form; JSON holds all."""


@telling
def gc(
    location: Annotated[str, typer.Argument(help="Directory or URL: of checkpoints, or of a cluster.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    older_than: Annotated[str, typer.Option("--older-than", help="Keep what was written more recently.")] = "7d",
    config: ConfigFlag = None,
    output: OutputFlag = Output.TEXT,
) -> None:
    """Delete what a store holds that nothing needs: leftovers of jobs that ended, of attempts that died, of savepoints
    that nobody finished, and of clusters. Jobs that may be live keep all they may need, and savepoints are kept."""
    try:
        age_ms = parse_duration_ms(older_than)
    except (ConfigurationError, ValueError) as error:
        raise UsageError(f"--older-than: {error}") from None
    if "://" not in location and not Path(location).is_dir():
        raise UsageError(f"{location} is no directory")
    from ...state.savepoints.savepoint_store import is_savepoint
    from ...state.store.garbage import delete_garbage, find_garbage
    from ...state.store.objects import run_program
    from ...state.store.obstore_objects import ObstoreObjects

    if is_savepoint(location):
        raise UsageError(f"{location} is a savepoint: give the directory that it is in")
    options = common.configuration(common.parse_settings(config or []))
    store = ObstoreObjects(location, options.to_dict())
    findings = run_program(find_garbage(time.time_ns() // 1_000_000, age_ms), store)
    deleted = 0 if dry_run else run_program(delete_garbage(findings), store)
    if output is Output.JSON:
        typer.echo(json.dumps(_as_json(location, findings, deleted)))
    else:
        typer.echo(_as_text(findings, dry_run))


def _as_json(location: str, findings: Findings, deleted: int) -> dict[str, Any]:
    return {
        "location": location,
        "objects": findings.objects,
        "bytes": findings.bytes,
        "garbage": [{"name": c.name, "bytes": c.size_bytes, "reason": c.reason} for c in findings.candidates],
        "garbage_bytes": findings.candidate_bytes,
        "deleted": deleted,
        "not_judged": findings.kept,
        "broken_savepoints": findings.broken,
    }


def _as_text(findings: Findings, dry_run: bool) -> str:
    by_reason: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in findings.candidates:
        by_reason[candidate.reason].append(candidate)
    lines = []
    for reason, found in sorted(by_reason.items()):
        lines.append(f"{len(found)} objects, {sum(c.size_bytes for c in found):,} bytes: {reason}")
        lines += [f"    {candidate.name}" for candidate in found[:SHOWN_NAMES]]
        if len(found) > SHOWN_NAMES:
            lines.append(f"    and {len(found) - SHOWN_NAMES} more")
    lines += [f"job {job_id} is kept, it cannot be judged: {why}" for job_id, why in sorted(findings.kept.items())]
    lines += [
        f"savepoint {path} cannot be restored: {why}; penstock savepoint dispose deletes it"
        for path, why in sorted(findings.broken.items())
    ]
    verb = "would be deleted" if dry_run else "deleted"
    total = f"{len(findings.candidates)} of {findings.objects} objects, {findings.candidate_bytes:,} bytes"
    return "\n".join([*lines, f"{total} {verb}"])
