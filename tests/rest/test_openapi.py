"""Requests drawn from the interface's own description, against the application: no answer is a 500, and none
contradicts what the description says of it. Drawn in two ways: as described, and with something wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from penstock.jobmanager.gateway import Gateway
from penstock.jobmanager.rest.app import RestOptions, create_app

EXAMPLES = 10
"""Of each operation in each way."""
SEED = 20_261_121
NOW_MS = 1_700_000_100_000
KNOWN = {
    "job_id": "0123456789abcdef0123456789abcdef",
    "application_id": "feedfacefeedfacefeedfacefeedface",
    "vertex_id": "b" * 32,
    "checkpoint_id": 3,
    "subtask": 1,
    "task_manager": "node-1",
    "file": "penstock.log",
    "collector": "numbers",
    "operator": "op-3",
    "state": "all sums",
    "trigger": "c" * 32,
    "artefact": f"{'0' * 64}_job.py",
}
"""Of each parameter of a path a value that leads somewhere: what is drawn hardly does."""
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
NOT_SUPPORTED = 501
ViewsGateway = Any

DESCRIPTION = create_app(cast(Gateway, None)).openapi()
CASES = [
    (mode, method, path)
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or operation.get("parameters") or operation.get("requestBody")
]
"""What takes nothing can have nothing wrong in it."""


@pytest.fixture(scope="module")
def schema(make_gateway: Callable[[Path], ViewsGateway], tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("uploads")
    gateway = make_gateway(directory)
    script = directory / "job.py"
    script.write_text("print(1)")
    gateway.uploads[KNOWN["artefact"]] = script
    gateway.polls.set()
    for target in ("/full", "/savepoints"):
        gateway.savepoint(KNOWN["job_id"], KNOWN["trigger"], target, stop=False, drain=False)
    gateway.checkpoint(KNOWN["job_id"], KNOWN["trigger"])
    gateway.dispose("/savepoints/savepoint-012345-000000000001", KNOWN["trigger"])
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(gateway, RestOptions(now_ms=lambda: NOW_MS)))


@pytest.mark.parametrize(("mode", "method", "path"), CASES)
def test_no_answer_contradicts_the_description(schema: Any, mode: GenerationMode, method: str, path: str) -> None:
    operation = schema[path][method.upper()]
    negative = mode is GenerationMode.NEGATIVE
    checks = [*CHECKS, negative_data_rejection] if negative and method == "get" else CHECKS

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def ask(case: Any, known: bool) -> None:
        if known and not negative:
            case.path_parameters = {name: KNOWN[name] for name in case.path_parameters or {}}
        answer = case.call()
        assert answer.status_code < 500 or answer.status_code == NOT_SUPPORTED, answer.text
        case.validate_response(answer, checks=checks)

    ask()
