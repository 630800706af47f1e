"""Task managers and the job manager as processes: sizes, memory, files, threads.

Flink's are Java processes with memory divided into pools. Ours are one process per slot beside the task manager's, so
most of those numbers are 0, and what the machine knows (resident memory, memory of the machine) stands where Flink has
heap. The types of all fields are Flink's, so that its client and dashboards can read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from typing_extensions import TypedDict

from ...runtime.resources import NO_RESOURCES, Resources
from ..gateway import ClusterInfo
from ..views import JobView, LogFile, SlotView, TaskManagerView
from .metric_ids import task_manager_metrics

MEBIBYTE = 2**20
NO_PORT = -1


class Resource(TypedDict):
    """Memory in MiB."""

    cpuCores: float
    taskHeapMemory: int
    taskOffHeapMemory: int
    managedMemory: int
    networkMemory: int
    extendedResources: dict[str, float]


class Hardware(TypedDict):
    """Memory in bytes."""

    cpuCores: int
    physicalMemory: int
    freeMemory: int
    managedMemory: int


class MemoryConfiguration(TypedDict):
    """Bytes."""

    frameworkHeap: int
    taskHeap: int
    frameworkOffHeap: int
    taskOffHeap: int
    networkMemory: int
    managedMemory: int
    jvmMetaspace: int
    jvmOverhead: int
    totalFlinkMemory: int
    totalProcessMemory: int


class TaskManager(TypedDict):
    """timeSinceLastHeartbeat is the moment of it, ms since the epoch: the name is Flink's. `problem` is ours: why it
    has no slots, or fewer than it should."""

    id: str
    path: str
    dataPort: int
    jmxPort: int
    timeSinceLastHeartbeat: int
    slotsNumber: int
    freeSlots: int
    assignedTasks: int
    totalResource: Resource
    freeResource: Resource
    hardware: Hardware
    memoryConfiguration: MemoryConfiguration
    problem: str


class TaskManagers(TypedDict):
    taskmanagers: list[TaskManager]


class GarbageCollector(TypedDict):
    name: str
    count: int
    time: int


class TaskManagerMetrics(TypedDict):
    heapUsed: int
    heapCommitted: int
    heapMax: int
    nonHeapUsed: int
    nonHeapCommitted: int
    nonHeapMax: int
    directCount: int
    directUsed: int
    directMax: int
    mappedCount: int
    mappedUsed: int
    mappedMax: int
    nettyShuffleMemorySegmentsAvailable: int
    nettyShuffleMemorySegmentsUsed: int
    nettyShuffleMemorySegmentsTotal: int
    nettyShuffleMemoryAvailable: int
    nettyShuffleMemoryUsed: int
    nettyShuffleMemoryTotal: int
    garbageCollectors: list[GarbageCollector]


class AllocatedSlot(TypedDict):
    jobId: str
    resource: Resource
    assignedTasks: int


class SlotProcess(TypedDict):
    """Ours: a slot is a process. Blank ones stand ready and have no job."""

    id: str
    jobId: str
    pid: int
    residentBytes: int
    budgetBytes: int
    """What it may use of memory, by its limits; 0: unknown."""
    resources: dict[str, float]
    """That it has to itself, by name; memory in bytes."""


class TaskManagerDetails(TaskManager):
    metrics: TaskManagerMetrics
    allocatedSlots: list[AllocatedSlot]
    slots: list[SlotProcess]


class LogInfo(TypedDict):
    name: str
    size: int
    mtime: int


class Logs(TypedDict):
    logs: list[LogInfo]


class ThreadInfo(TypedDict):
    threadName: str
    stringifiedThreadInfo: str


class ThreadDump(TypedDict):
    threadInfos: list[ThreadInfo]


class ConfigEntry(TypedDict):
    key: str
    value: str


class Jvm(TypedDict):
    version: str
    arch: str
    options: list[str]


class Environment(TypedDict):
    """`jvm` is what stands in its place: the Python interpreter."""

    jvm: Jvm
    classpath: list[str]


TasksBySlot = Mapping[str, int]
"""Slot -> subtasks in it."""


def tasks_by_slot(views: Sequence[JobView]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for view in views:
        for vertex in view.vertices:
            for subtask in vertex.subtasks:
                if subtask.slot:
                    counts[subtask.slot] = counts.get(subtask.slot, 0) + 1
    return counts


def _resource(view: TaskManagerView, slots: int, resources: Resources = NO_RESOURCES) -> Resource:
    """A share of the machine, and of what is counted by pieces these."""
    share = slots / view.slots_total if view.slots_total else 0.0
    return {
        "cpuCores": float(view.cores * share),
        "taskHeapMemory": int(view.memory_bytes * share) // MEBIBYTE,
        "taskOffHeapMemory": 0,
        "managedMemory": 0,
        "networkMemory": 0,
        "extendedResources": _extended(resources),
    }


def _extended(resources: Resources) -> dict[str, float]:
    return {name: amount for name, amount in resources.amounts().items() if name not in ("cpu", "memory")}


def _own_resource(resources: Resources) -> Resource:
    """Of a slot that has some to itself."""
    return {
        "cpuCores": resources.cpu,
        "taskHeapMemory": resources.memory_bytes // MEBIBYTE,
        "taskOffHeapMemory": 0,
        "managedMemory": 0,
        "networkMemory": 0,
        "extendedResources": _extended(resources),
    }


def task_manager(view: TaskManagerView, tasks: TasksBySlot) -> TaskManager:
    return {
        "id": view.id,
        "path": f"ray://{view.host}/{view.id}",
        "dataPort": view.data_port,
        "jmxPort": NO_PORT,
        "timeSinceLastHeartbeat": view.heartbeat_ms,
        "slotsNumber": view.slots_total,
        "freeSlots": view.slots_free,
        "assignedTasks": sum(tasks.get(slot.id, 0) for slot in view.slots),
        "totalResource": _resource(view, view.slots_total, view.resources),
        "freeResource": _resource(view, view.slots_free, view.resources_free),
        "hardware": {
            "cpuCores": view.cores,
            "physicalMemory": view.memory_bytes,
            "freeMemory": view.memory_available_bytes,
            "managedMemory": 0,
        },
        "memoryConfiguration": {
            "frameworkHeap": 0,
            "taskHeap": view.memory_bytes,
            "frameworkOffHeap": 0,
            "taskOffHeap": 0,
            "networkMemory": 0,
            "managedMemory": 0,
            "jvmMetaspace": 0,
            "jvmOverhead": 0,
            "totalFlinkMemory": view.memory_bytes,
            "totalProcessMemory": view.memory_bytes,
        },
        "problem": view.problem,
    }


def task_managers(views: Sequence[TaskManagerView], tasks: TasksBySlot) -> TaskManagers:
    return {"taskmanagers": [task_manager(view, tasks) for view in views]}


def task_manager_details(view: TaskManagerView, tasks: TasksBySlot) -> TaskManagerDetails:
    return {
        **task_manager(view, tasks),
        "metrics": _metrics(view),
        "allocatedSlots": [_allocated(view, slot, tasks) for slot in view.slots if slot.job_id],
        "slots": [
            {
                "id": slot.id,
                "jobId": slot.job_id,
                "pid": slot.pid,
                "residentBytes": slot.rss_bytes,
                "budgetBytes": slot.budget_bytes,
                "resources": slot.resources.amounts(),
            }
            for slot in view.slots
        ],
    }


def _allocated(view: TaskManagerView, slot: SlotView, tasks: TasksBySlot) -> AllocatedSlot:
    resource = _own_resource(slot.resources) if slot.resources else _resource(view, 1)
    return {"jobId": slot.job_id, "resource": resource, "assignedTasks": tasks.get(slot.id, 0)}


def _metrics(view: TaskManagerView) -> TaskManagerMetrics:
    values = task_manager_metrics(view)

    def number(name: str) -> int:
        return int(values.get(f"Status.{name}", 0))

    return {
        "heapUsed": number("JVM.Memory.Heap.Used"),
        "heapCommitted": number("JVM.Memory.Heap.Committed"),
        "heapMax": number("JVM.Memory.Heap.Max"),
        "nonHeapUsed": number("JVM.Memory.NonHeap.Used"),
        "nonHeapCommitted": number("JVM.Memory.NonHeap.Committed"),
        "nonHeapMax": number("JVM.Memory.NonHeap.Max"),
        "directCount": number("JVM.Memory.Direct.Count"),
        "directUsed": number("JVM.Memory.Direct.MemoryUsed"),
        "directMax": number("JVM.Memory.Direct.TotalCapacity"),
        "mappedCount": number("JVM.Memory.Mapped.Count"),
        "mappedUsed": number("JVM.Memory.Mapped.MemoryUsed"),
        "mappedMax": number("JVM.Memory.Mapped.TotalCapacity"),
        "nettyShuffleMemorySegmentsAvailable": number("Shuffle.Netty.AvailableMemorySegments"),
        "nettyShuffleMemorySegmentsUsed": number("Shuffle.Netty.UsedMemorySegments"),
        "nettyShuffleMemorySegmentsTotal": number("Shuffle.Netty.TotalMemorySegments"),
        "nettyShuffleMemoryAvailable": number("Shuffle.Netty.AvailableMemory"),
        "nettyShuffleMemoryUsed": number("Shuffle.Netty.UsedMemory"),
        "nettyShuffleMemoryTotal": number("Shuffle.Netty.TotalMemory"),
        "garbageCollectors": _collectors(values),
    }


def _collectors(values: Mapping[str, float]) -> list[GarbageCollector]:
    prefix = "Status.JVM.GarbageCollector."
    found = (re.fullmatch(rf"{re.escape(prefix)}(.+)\.Count", name) for name in values)
    return [
        {
            "name": match[1],
            "count": int(values[match[0]]),
            "time": int(values.get(f"{prefix}{match[1]}.Time", 0)),
        }
        for match in found
        if match
    ]


def logs(files: Sequence[LogFile]) -> Logs:
    return {"logs": [{"name": file.name, "size": file.size_bytes, "mtime": file.modified_ms} for file in files]}


OWN_LOGS = ("jobmanager", "taskmanager")
"""Logs of the process itself, among those of job masters and slots."""


def own_log(files: Sequence[LogFile], suffix: str) -> str | None:
    """The log of the process itself that is written now; else the newest; None: there is none of that suffix."""
    found = [file for file in files if file.name.endswith(suffix)]
    own = [file for file in found if file.name.startswith(OWN_LOGS)]
    return max(own or found, key=lambda file: file.modified_ms).name if found else None


def thread_dump(stacks: Mapping[str, str]) -> ThreadDump:
    return {
        "threadInfos": [
            {"threadName": name, "stringifiedThreadInfo": f'"{name}"\n{stack}'} for name, stack in stacks.items()
        ]
    }


def config(info: ClusterInfo) -> list[ConfigEntry]:
    return [{"key": key, "value": value} for key, value in sorted(info.config.items())]


def environment(info: ClusterInfo) -> Environment:
    """Versions stand where a class path would: what is loaded."""
    return {
        "jvm": {
            "version": f"Python {info.versions.get('python', '')}".strip(),
            "arch": info.environment.get("arch", ""),
            "options": [f"{name}={value}" for name, value in sorted(info.environment.items()) if name != "arch"],
        },
        "classpath": [f"{name} {version}" for name, version in sorted(info.versions.items())],
    }
