"""Simulated time: what can be counted by hand, and a real verdict on it."""

from functools import partial

import numpy as np
import pytest
import toys

from sublinattn.suite.simulated_cluster import Replay, SimulatedCluster, replay
from sublinattn.theory import verify
from sublinattn.theory.claim import Trial


def trials(seconds):
    return [Trial(measured=seconds)], 0.0


def finish(cluster, *seconds):
    for future in [cluster.submit(trials, each) for each in seconds]:
        future.result()


@pytest.mark.parametrize(
    ("workers", "seconds", "ends"),
    [
        (1, [2, 1, 3], 0.5 + 6),  # one worker, which waits for the scheduler once
        (2, [2, 1, 3], 1 + 1 + 3),  # the second worker begins at 1.0 and takes the third task at 2.0
        (3, [2, 1, 3], 1.5 + 3),
        (1000, [0] * 1000, 500),  # nothing but the scheduler
    ],
)
def test_tasks_pass_the_scheduler_one_at_a_time_and_wait_for_a_worker(workers, seconds, ends):
    cluster = Replay(workers, 0.5)
    cluster.together([partial(finish, cluster, *seconds)])
    assert cluster.now == pytest.approx(ends) and cluster.busy == pytest.approx(sum(seconds))


def test_jobs_side_by_side_share_workers_and_the_clients_cpus():
    cluster = Replay(1, 0.0, cpus=2)
    cluster.together([partial(cluster.work, 3.0)] * 3)
    assert cluster.now == 6.0
    cluster.together([partial(finish, cluster, 1.0), partial(finish, cluster, 2.0), partial(cluster.work, 2.5)])
    assert cluster.now == 9.0


def test_a_cancelled_task_costs_nothing():
    cluster = Replay(1, 0.0)

    def client():
        first, second = cluster.submit(trials, 1.0), cluster.submit(trials, 50.0)
        second.cancel()
        first.result()
        finish(cluster, 1.0)

    cluster.together([client])
    assert cluster.now == 2.0


@pytest.mark.parametrize("workers", [1, 64])
def test_a_verdict_is_the_same_and_more_workers_take_less_time(workers):
    cluster = SimulatedCluster(workers, 1e-4)
    assert verify(toys.MEAN, executor=cluster).rows.equals(verify(toys.MEAN).rows)
    assert cluster.now >= cluster.busy / workers > 0 and np.isfinite(cluster.now)


def test_what_was_quiet_in_a_run_follows_in_turn_when_all_notebooks_have_done_the_rest():
    seconds = {
        "04-causal-scaling": 10.0,
        "12-clusterability": 8.0,
        "15-subgen-scaling": 5.0,
        "11-reviewers-questions": 1.0,
    }
    machine = {"seconds": seconds, "quiet": {"04-causal-scaling": 3.0, "15-subgen-scaling": 4.0}}
    run = {"effort": "smoke", "seed": 0, "backend": "numpy"}
    assert replay({"run": run, "machine": machine, "claims": {}}, 1, 0.0, cpus=2).now == 8 + 7 + 1
