"""Why something failed, as Flink's clients read it."""

from __future__ import annotations

from base64 import b64encode

from typing_extensions import TypedDict

from .java_throwable import java_throwable

FailureCause = TypedDict("FailureCause", {"class": str, "stack-trace": str, "serialized-throwable": str})
"""The last field is required by Java clients: base64 of what java_throwable.py writes."""


def failure_cause(exception: str, message: str, stacktrace: str = "") -> FailureCause:
    """`exception`: name of its class."""
    shown = stacktrace or f"{exception}: {message}"
    serialized = b64encode(java_throwable(exception, message, shown)).decode("ascii")
    return {"class": exception, "stack-trace": shown, "serialized-throwable": serialized}
