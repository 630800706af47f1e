"""Every path that ends in /metrics, save Prometheus': of a job, a vertex, subtasks, task managers, the job manager.

Two forms. Single metrics (`get=` -> text values) are of one thing. Aggregated ones (`get=`, `agg=` and a filter ->
numbers) are over several: subtasks of a vertex, jobs, task managers. Both answer ids alone without `get`.
"""

from __future__ import annotations

import psutil
from fastapi import APIRouter

from . import metric_ids
from .lookups import subtask_of, task_manager_of, vertex_of
from .parameters import (
    AggQuery,
    GetQuery,
    IdsQuery,
    JobIdPath,
    Server,
    SubtaskPath,
    SubtasksQuery,
    TaskManagerPath,
    VertexIdPath,
)
from .states import has_ended
from .wire_metrics import AggregatedMetric, Metric, aggregated, indexes, metrics

router = APIRouter(tags=["metrics"])
VERTEX = "/jobs/{job_id}/vertices/{vertex_id}"


@router.get("/jobs/metrics")
def of_jobs(
    server: Server, get: GetQuery = None, agg: AggQuery = None, jobs: IdsQuery = None
) -> list[AggregatedMetric]:
    """Over all jobs that run, or those that are named."""
    gateway, now_ms = server.gateway, server.now_ms()
    running = [job.id for job in gateway.jobs() if not has_ended(job)]
    wanted = running if jobs is None else jobs.split(",")
    return aggregated([metric_ids.job_metrics(gateway.job(job_id), now_ms) for job_id in wanted], get, agg)


@router.get("/jobs/{job_id}/metrics")
def of_job(server: Server, job_id: JobIdPath, get: GetQuery = None) -> list[Metric]:
    """Restarts, times, checkpoints."""
    view = server.gateway.job(job_id)
    return metrics({**metric_ids.job_metrics(view, server.now_ms()), **metric_ids.job_texts(view)}, get)


@router.get(f"{VERTEX}/metrics")
def of_vertex(server: Server, job_id: JobIdPath, vertex_id: VertexIdPath, get: GetQuery = None) -> list[Metric]:
    """Of all its subtasks: ids begin with the subtask's index."""
    return metrics(metric_ids.vertex_metrics(vertex_of(server.gateway.job(job_id), vertex_id)), get)


@router.get(f"{VERTEX}/subtasks/metrics")
def of_subtasks(
    server: Server,
    job_id: JobIdPath,
    vertex_id: VertexIdPath,
    get: GetQuery = None,
    agg: AggQuery = None,
    subtasks: SubtasksQuery = None,
) -> list[AggregatedMetric]:
    """Over its subtasks, or those that are named."""
    vertex = vertex_of(server.gateway.job(job_id), vertex_id)
    wanted = set(indexes(subtasks, vertex.parallelism))
    members = [metric_ids.subtask_metrics(vertex, one) for one in vertex.subtasks if one.index in wanted]
    return aggregated(members, get, agg)


@router.get(f"{VERTEX}/subtasks/{{subtask}}/metrics")
def of_subtask(
    server: Server, job_id: JobIdPath, vertex_id: VertexIdPath, subtask: SubtaskPath, get: GetQuery = None
) -> list[Metric]:
    """Of one subtask: ids without its index."""
    vertex = vertex_of(server.gateway.job(job_id), vertex_id)
    return metrics(metric_ids.subtask_metrics(vertex, subtask_of(vertex, subtask)), get)


@router.get("/taskmanagers/metrics")
def of_task_managers(
    server: Server, get: GetQuery = None, agg: AggQuery = None, taskmanagers: IdsQuery = None
) -> list[AggregatedMetric]:
    """Over all task managers, or those that are named."""
    wanted = None if taskmanagers is None else set(taskmanagers.split(","))
    views = [view for view in server.gateway.task_managers() if wanted is None or view.id in wanted]
    return aggregated([metric_ids.task_manager_metrics(view) for view in views], get, agg)


@router.get("/taskmanagers/{task_manager}/metrics")
def of_task_manager(server: Server, task_manager: TaskManagerPath, get: GetQuery = None) -> list[Metric]:
    """Memory and garbage collection of its processes, under the ids that Flink has for a Java process."""
    return metrics(metric_ids.task_manager_metrics(task_manager_of(server.gateway, task_manager)), get)


@router.get("/jobmanager/metrics")
def of_job_manager(server: Server, get: GetQuery = None) -> list[Metric]:
    """Of its process, and what it leads: jobs, task managers, slots."""
    gateway = server.gateway
    managers = gateway.task_managers()
    led = metric_ids.cluster_metrics(
        sum(not has_ended(job) for job in gateway.jobs()),
        len(managers),
        sum(manager.slots_total for manager in managers),
        sum(manager.slots_free for manager in managers),
    )
    process = metric_ids.process_metrics(gateway.metrics(), psutil.virtual_memory().total)
    return metrics({**process, **led}, get)
