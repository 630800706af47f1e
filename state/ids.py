"""Typed ids: what a job, a vertex, an attempt or a key group is called, so that one is never passed for another."""

from __future__ import annotations

import uuid
from typing import NewType

JobId = NewType("JobId", str)
VertexId = NewType("VertexId", str)
OperatorId = NewType("OperatorId", str)
"""Stable over versions of a job: the user's uid, or derived from the operator's position."""
SlotId = NewType("SlotId", str)
SplitId = NewType("SplitId", str)
Attempt = NewType("Attempt", int)
"""Number of an execution of the whole job; comes from the job's log and only grows (PROTOCOLS 5)."""
Generation = NewType("Generation", int)
"""Number of a leadership of the job; comes from the job's log and only grows (PROTOCOLS 1)."""
CheckpointId = NewType("CheckpointId", int)
KeyGroup = NewType("KeyGroup", int)


def new_job_id() -> JobId:
    return JobId(uuid.uuid4().hex)


def new_nonce() -> str:
    """A name no other writer uses: marks who wrote an object (PROTOCOLS 3)."""
    return uuid.uuid4().hex
