"""Phrases that several remedies use, by what was trained."""

from __future__ import annotations

from hessianfree.diagnosis.course import RunCourse

#: What makes first-order updates shorter.
LOWER_RATE = "a learning rate lower by ten, as in SGD(l_rate=...) or FirstOrder(optax.adam(1e-4))"


def smaller_weights(course: RunCourse) -> str:
    """Where a run of this kind gets smaller initial weights from."""
    if not course.facts.network:
        return "smaller initial parameters"
    return "smaller initial weights, W_init_params={'coeff': 0.3}"


def other_weights(course: RunCourse) -> str:
    """Where a run of this kind gets other initial weights from."""
    if not course.facts.network:
        return "other initial parameters"
    return "other initial weights, W_init_params={'coeff': ...} or rng=..."


def float64(course: RunCourse) -> str:
    """How a run of this kind is made more precise."""
    return "dtype=np.float64" if course.facts.network else "float64 parameters"
