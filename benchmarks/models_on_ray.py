"""A pool of models on Ray's actors against the same model called in the slot: records a second through map_batches.

A job of parallelism 1 on a cluster of this machine, from a sequence of integers to nowhere, timed from the first result
to the last, so without the start of actors and the loading of models. `dense` takes some ten us a record on one core;
`light` next to nothing: what is left is the way there and back. Linear algebra has one thread everywhere, so a second
actor helps as far as there are cores beside the slot's.

    python benchmarks/models_on_ray.py [--records 300000] [--rounds 3] [--models dense,light]

JSON lines, the best of the rounds; `ratio` is to the slot in the same run. `light` has ten times as many records.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

from on_cluster import BenchmarkCluster

RECORDS = 300_000
LIGHTER = 10
ACTORS = (0, 1, 2)


def rate(cluster: BenchmarkCluster, artefact: str, model: str, actors: int, records: int) -> float:
    """Records a second of one job."""
    told = cluster.directory / "told"
    told.unlink(missing_ok=True)
    cluster.until_warm(1)
    arguments = [f"--model={model}", f"--actors={actors}", f"--records={records}", f"--told={told}"]
    job = cluster.run(artefact, arguments, parallelism=1)
    cluster.until_state(job, "FINISHED")
    took = json.loads(told.read_text())
    return float(took["records"] / took["ns"] * 1e9)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="dense,light")
    arguments = parser.parse_args()
    with BenchmarkCluster() as cluster:
        artefact = cluster.upload("models.py")
        for model in arguments.models.split(","):
            records = arguments.records * (LIGHTER if model == "light" else 1)
            rounds = [
                {actors: rate(cluster, artefact, model, actors, records) for actors in ACTORS}
                for _ in range(arguments.rounds)
            ]
            for actors in ACTORS:
                result = {
                    "benchmark": "models_on_ray", "model": model, "actors": actors,
                    "value": round(max(each[actors] for each in rounds)), "unit": "records/s",
                    "ratio": round(statistics.median(each[actors] / each[0] for each in rounds), 2),
                }  # fmt: skip
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
