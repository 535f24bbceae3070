"""The loss curve of a run from its events, over all its lives.

A life that was cut short may have gone past the state from which the next one started: the steps
it did twice count once, as the later life did them.
"""

from collections.abc import Iterable

from tenner.events import EpochEnd, Event, Step
from tenner.report.facts import LossCurve


def loss_curve(events: Iterable[Event]) -> LossCurve:
    """The curve of all `step` events; an epoch ends at the step before its `epoch` event."""
    seen: dict[int, Step] = {}
    ends: dict[int, int] = {}
    newest = 0
    for event in events:
        if isinstance(event, Step):
            seen[event.step] = event
            newest = event.step
        elif isinstance(event, EpochEnd) and newest:
            ends[event.epoch] = newest
    steps = sorted(seen)
    names = sorted({name for step in seen.values() for name in step.lr})
    return LossCurve(
        steps=steps,
        losses=[seen[step].loss for step in steps],
        learning_rates={name: [seen[step].lr.get(name, 0.0) for step in steps] for name in names},
        epoch_ends=[ends[epoch] for epoch in sorted(ends)],
    )
