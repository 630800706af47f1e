"""Requests drawn from the interface's own description, against the application: no answer is a 500, and none
contradicts what the description says of it. Drawn in two ways: as described, and with something wrong in them."""

from __future__ import annotations

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
KNOWN = {
    "job_id": "0123456789abcdef0123456789abcdef",
    "application_id": "feedfacefeedfacefeedfacefeedface",
    "vertex_id": "b" * 32,
    "checkpoint_id": 3,
    "subtask": 1,
    "task_manager": "node-1",
    "file": "penstock.log",
    "collector": "numbers",
    "artefact": f"{'0' * 64}_job.py",
}
"""Of each parameter of a path a value that leads somewhere: what is drawn hardly does."""
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
NOT_SUPPORTED = 501
ViewsGateway = Any

DESCRIPTION = create_app(cast(Gateway, None)).openapi()
OPERATIONS = [(method, path) for path, methods in DESCRIPTION["paths"].items() for method in methods]


@pytest.fixture
def schema(gateway: ViewsGateway, options: RestOptions, tmp_path: Path) -> Any:
    script = tmp_path / "job.py"
    script.write_text("print(1)")
    gateway.uploads[KNOWN["artefact"]] = script
    gateway.polls.set()
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(gateway, options))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_answer_contradicts_the_description(schema: Any, method: str, path: str, mode: GenerationMode) -> None:
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

    if negative and not operation_takes_anything(path, method):
        pytest.skip("it takes nothing that could be wrong")
    ask()


def operation_takes_anything(path: str, method: str) -> bool:
    described = DESCRIPTION["paths"][path][method]
    return bool(described.get("parameters") or described.get("requestBody"))
