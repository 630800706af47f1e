"""/jobs/:id/state: what keys have in the state of a job that runs, without stopping it.

A value is the one at that moment, ahead of the last checkpoint: a job that fails goes back behind it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from ..gateway import StateQuestion
from . import wire_state as wire
from .parameters import JobIdPath, Server

router = APIRouter(tags=["state"])

LONGEST_KEY = 16_000

OperatorPath = Annotated[str, Path(description="An operator: its uid or id, or its name if no other has it.")]
StatePath = Annotated[str, Path(description="The name in the state's descriptor.")]
KeyQuery = Annotated[
    str,
    Query(
        description="The key, as JSON: parts of tuples, NamedTuples and dataclasses as a list, members of enums by "
        "name, dates, UUIDs and Decimals as strings, bytes as base64. What is no JSON is a string.",
        max_length=LONGEST_KEY,
    ),
]
EntryQuery = Annotated[
    str | None, Query(alias="map-key", description="Of a map only the value under this key.", max_length=LONGEST_KEY)
]
NamespaceQuery = Annotated[
    int, Query(description="Of a window's state: its start, ms, or number.", ge=-(2**63), le=2**63 - 1)
]


@router.get("/jobs/{job_id}/state")
def states(server: Server, job_id: JobIdPath) -> wire.States:
    """Which states can be asked for, of what types, and how large they are; as subtasks have reported them."""
    return wire.states(server.gateway.job(job_id))


@router.get("/jobs/{job_id}/state/{operator}/{state:path}")
def value(
    server: Server,
    job_id: JobIdPath,
    operator: OperatorPath,
    state: StatePath,
    key: KeyQuery,
    map_key: EntryQuery = None,
    namespace: NamespaceQuery = 0,
) -> wire.KeyedValue:
    """What a key has in a state now. 503: nobody can answer at the moment, as after a failure; 409: the job has
    ended."""
    question = StateQuestion(operator, state, key, map_key, namespace)
    with server.place_for_a_question():
        answer = server.gateway.read_state(job_id, question)
    return wire.keyed_value(question, answer)
