"""A queue of LoRAs on 1,000 spot cards that are taken away at random, simulated event by event.

python -m bench.queue_simulation

What is random, and what is assumed:

- The lifetime of a card is exponentially distributed with the given mean. At its end the card is
  gone at once, without a warning, and a new one is there after `REPLACE_MINUTES`. Real spot
  capacity often gives two minutes of warning, which are enough to save.
- Every job takes `JOB_MINUTES` of training. A start costs `START_MINUTES` (the image is there; the
  base is loaded, latents are encoded), a restart also brings the state from the destination.
- A state is saved every `interval` minutes, which stops the training for `SAVE_SECONDS`; it is
  sent in the background and is at the destination `SEND_SECONDS` later. A card that is lost before
  that loses all steps since the previous state.
- Lost jobs go to the front of the queue, once their lease has run out (`LEASE_SECONDS`).

Useful is the time whose steps reached the destination; paid is all time that a card was there.
The queue never runs empty while it is measured.
"""

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field

NUM_CARDS = 1_000
NUM_JOBS = 20_000
JOB_MINUTES = 60.0
START_MINUTES = 1.0
REPLACE_MINUTES = 5.0
SAVE_SECONDS = 2.0
SEND_SECONDS = 10.0
LEASE_SECONDS = 60.0
SEED = 1


@dataclass(kw_only=True)
class Job:
    """Minutes that are safe at the destination, and when it may be started again."""

    safe: float = 0.0
    not_before: float = 0.0
    losses: int = 0


@dataclass(kw_only=True)
class Simulation:
    """Time is in minutes."""

    mean_lifetime_minutes: float
    interval_minutes: float
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    paid: float = 0.0
    useful: float = 0.0
    done: int = 0
    losses: int = 0
    most_losses: int = 0

    def run(self) -> None:
        """Simulate until the queue is empty; jobs that run then are not counted."""
        waiting: deque[Job] = deque(Job() for _ in range(NUM_JOBS))
        held: list[tuple[float, int, Job]] = []
        order = itertools.count()
        # (time when the card is free, when it will be taken away)
        cards = [(0.0, self._lifetime()) for _ in range(NUM_CARDS)]
        heapq.heapify(cards)
        while waiting or held:
            now, gone = heapq.heappop(cards)
            while held and held[0][0] <= now:
                waiting.appendleft(heapq.heappop(held)[2])
            if not waiting:
                break
            job = waiting.popleft()
            end, safe = self._work(job, now, gone)
            self.useful += safe - job.safe
            job.safe = safe
            if end < gone:
                self.paid += end - now
                self.done += 1
                heapq.heappush(cards, (end, gone))
                continue
            self.paid += gone - now
            self.losses += 1
            job.losses += 1
            self.most_losses = max(self.most_losses, job.losses)
            heapq.heappush(held, (gone + LEASE_SECONDS / 60, next(order), job))
            back = gone + REPLACE_MINUTES
            heapq.heappush(cards, (back, back + self._lifetime()))

    def _lifetime(self) -> float:
        return self.rng.expovariate(1 / self.mean_lifetime_minutes)

    def _work(self, job: Job, now: float, gone: float) -> tuple[float, float]:
        """When the job ends or the card is lost, and the minutes that are safe then."""
        save, send = SAVE_SECONDS / 60, SEND_SECONDS / 60
        left, start = JOB_MINUTES - job.safe, now + START_MINUTES
        saves = int(left / self.interval_minutes - 1e-9)  # none at the very end
        end = start + left + saves * save + send
        if end < gone:
            return end, JOB_MINUTES
        # The last state that was sent before the card went.
        period = self.interval_minutes + save
        sent = min(saves, int(max(0.0, gone - start - send) / period))
        return gone, job.safe + sent * self.interval_minutes


def young(mean_lifetime_minutes: float) -> float:
    """Young's first-order optimum for the interval, in minutes: sqrt(2 x save x mean lifetime)."""
    return (2 * SAVE_SECONDS / 60 * mean_lifetime_minutes) ** 0.5


def main() -> None:
    """Print useful over paid time by the mean lifetime of cards and the interval of states."""
    intervals = (1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
    jobs = f"{NUM_JOBS:,} jobs of {JOB_MINUTES:.0f} min on {NUM_CARDS:,} cards"
    print(f"{jobs}; useful / paid GPU time")
    head = "".join(f"{each:>7.0f}" for each in intervals)
    print(f"{'mean lifetime':>13}  state every (min){head}   Young's optimum")
    for hours in (1.0, 2.0, 6.0, 24.0, 168.0):
        shares: list[str] = []
        for interval in intervals:
            simulation = Simulation(mean_lifetime_minutes=hours * 60, interval_minutes=interval)
            simulation.run()
            shares.append(f"{simulation.useful / simulation.paid:>7.3f}")
        print(f"{hours:>11.0f} h  {'':17}{''.join(shares)}   {young(hours * 60):.1f} min")


if __name__ == "__main__":
    main()
