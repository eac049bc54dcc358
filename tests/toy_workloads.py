"""What the tests of the workloads measure on an input: its logits and hardness, in float64."""

import numpy as np

from sublinattn.lab.workloads.reference import Reference


def logits(x):
    return x.scale * x.q.astype(np.float64) @ x.k.astype(np.float64).T


def softmax(x):
    return Reference(x).p


def alpha(x):
    return len(x.k) * np.sum(softmax(x) ** 2, axis=0).max()


def kappa(x):
    return np.exp(np.ptp(Reference(x).log_normaliser))


def sphere_through(members):
    """Center and radius of the sphere that all rows lie on; they must lie on one."""
    # |x - c|^2 = r^2 is linear in c and r^2 - |c|^2: consistent only if all members are on one sphere.
    unknowns = np.column_stack([2 * members, np.ones(len(members))])
    (*center, rest), residual, *_ = np.linalg.lstsq(unknowns, np.sum(members**2, axis=1))
    assert residual < 1e-18
    return np.array(center), np.sqrt(rest + np.sum(np.square(center)))
