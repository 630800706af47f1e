"""The view of a job whose master could not be loaded: there is no graph to show, only why."""

from __future__ import annotations

from ..runtime import options
from ..runtime.config import Configuration
from ..runtime.masking import masked
from ..runtime.tracebacks import user_traceback
from ..state.cluster_store import JobSubmission
from .job_states import JobState
from .views import CheckpointsView, ExceptionView, JobOverview, JobView

_HINT = "the job could not be loaded in the process of its master"


def failed_to_load(submission: JobSubmission, error: Exception, now_ms: int) -> JobView:
    config = Configuration.from_dict(submission.config)
    failure = ExceptionView(
        timestamp_ms=now_ms,
        exception=f"{type(error).__module__}.{type(error).__qualname__}",
        message=f"{_HINT}: {error}",
        stacktrace=user_traceback(error),
    )
    return JobView(
        overview=JobOverview(
            id=submission.job_id,
            name=submission.job_name,
            state=JobState.FAILED.value,
            started_ms=submission.created_at_ms,
            ended_ms=now_ms,
            modified_ms=now_ms,
            bounded=False,
            subtask_states={},
        ),
        attempt=0,
        generation=0,
        restarts=0,
        max_parallelism=config.get(options.MAX_PARALLELISM),
        timestamps={JobState.CREATED.value: submission.created_at_ms, JobState.FAILED.value: now_ms},
        vertices=(),
        edges=(),
        checkpoints=CheckpointsView(),
        checkpoint_config=None,
        exceptions=(failure,),
        config=masked(submission.config),
    )
