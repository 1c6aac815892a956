"""Which pictures run next, and together: size or deadline, urgent first, and nothing starves.

`Schedule` decides and knows neither threads nor clocks: time is passed in. `Batcher` is the thread that asks it and
runs the network; `inference.engine` owns one. A step of priority is worth `ageing_s` seconds of waiting, so a picture
is overtaken only by more urgent ones that come within that time after it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """How one model's pictures may be put together."""

    max_batch: int  # most pictures of a batch
    max_delay_s: float  # longest time the first picture waits for company


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch(Generic[Item]):
    """Pictures to be run together, most urgent first."""

    model: str
    items: tuple[Item, ...]


@dataclass(order=True, slots=True)
class _Waiting(Generic[Item]):
    """The order does not change as time goes by: all age alike."""

    key: float
    ordinal: int
    arrived_s: float = field(compare=False)
    max_batch: int = field(compare=False)
    item: Item = field(compare=False)


class Schedule(Generic[Item]):
    """Queues of pictures, one per model. Not thread-safe.

    Parameters
    ----------
    limits : mapping of model to BatchLimits
    ageing_s : float
        Waiting so long is worth one step of priority.
    """

    def __init__(self, limits: Mapping[str, BatchLimits], *, ageing_s: float) -> None:
        self._limits = dict(limits)
        self._ageing_s = ageing_s
        self._queues: dict[str, list[_Waiting[Item]]] = {model: [] for model in limits}
        self._ordinals = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add_model(self, model: str, limits: BatchLimits) -> None:
        """Take pictures of one more model."""
        self._limits[model] = limits
        self._queues.setdefault(model, [])

    def remove_model(self, model: str) -> None:
        """Take no more pictures of a model.

        Raises
        ------
        ValueError
            If pictures of it wait.
        """
        if self._queues[model]:
            raise ValueError(f"pictures of {model} wait")
        del self._queues[model], self._limits[model]

    def add(self, item: Item, *, model: str, priority: int, now_s: float, max_batch: int | None = None) -> None:
        """Queue a picture; `max_batch` is its own bound on the company it may be run in.

        Raises
        ------
        KeyError
            If the model is not known.
        """
        bound = self._limits[model].max_batch
        entry = _Waiting(
            key=now_s - priority * self._ageing_s,
            ordinal=next(self._ordinals),
            arrived_s=now_s,
            max_batch=bound if max_batch is None else max(1, min(max_batch, bound)),
            item=item,
        )
        heapq.heappush(self._queues[model], entry)

    def next_batch(self, now_s: float, *, more_coming: bool = True) -> Batch[Item] | None:
        """The batch to run now, or None when it pays to wait.

        Of the models that are due, the one whose first picture is most urgent. With nothing more on its way
        (`more_coming` False) there is no reason to wait.
        """
        due = [model for model, queue in self._queues.items() if queue and self._wait_s(model, now_s, more_coming) <= 0]
        if not due:
            return None
        model = min(due, key=lambda name: self._queues[name][0])
        return Batch(model=model, items=tuple(entry.item for entry in self._take(model)))

    def wait_s(self, now_s: float, *, more_coming: bool = True) -> float | None:
        """Seconds until a batch is due; 0 when one is, None when nothing waits."""
        waits = [self._wait_s(model, now_s, more_coming) for model, queue in self._queues.items() if queue]
        return max(min(waits), 0.0) if waits else None

    def drain(self) -> tuple[Item, ...]:
        """Take everything out, in no particular order."""
        items = tuple(entry.item for queue in self._queues.values() for entry in queue)
        for queue in self._queues.values():
            queue.clear()
        return items

    def _wait_s(self, model: str, now_s: float, more_coming: bool) -> float:
        queue, limits = self._queues[model], self._limits[model]
        if not more_coming or len(queue) >= min(limits.max_batch, queue[0].max_batch):
            return 0.0
        return min(entry.arrived_s for entry in queue) + limits.max_delay_s - now_s

    def _take(self, model: str) -> list[_Waiting[Item]]:
        queue = self._queues[model]
        taken = [heapq.heappop(queue)]
        bound = taken[0].max_batch
        while queue and len(taken) < min(bound, queue[0].max_batch):
            taken.append(heapq.heappop(queue))
            bound = min(bound, taken[-1].max_batch)
        return taken


class Batcher(Generic[Item]):
    """The thread that runs batches.

    Parameters
    ----------
    run : callable
        Runs one batch and keeps its own errors; called in the batcher's thread only.
    more_coming : callable
        Whether pictures are on their way, so that waiting for company pays.
    """

    def __init__(
        self,
        schedule: Schedule[Item],
        run: Callable[[Batch[Item]], None],
        *,
        more_coming: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule = schedule
        self._run = run
        self._more_coming = more_coming
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    def put(self, items: Sequence[Item], *, model: str, priority: int, max_batch: int | None = None) -> None:
        """Queue pictures of one study."""
        with self._changed:
            for item in items:
                self._schedule.add(item, model=model, priority=priority, now_s=self._clock(), max_batch=max_batch)
            self._changed.notify()

    def add_model(self, model: str, limits: BatchLimits) -> None:
        """Take pictures of one more model."""
        with self._changed:
            self._schedule.add_model(model, limits)

    def remove_model(self, model: str) -> None:
        """Take no more pictures of a model; `ValueError` if some wait."""
        with self._changed:
            self._schedule.remove_model(model)

    def wake(self) -> None:
        """Look again: what `more_coming` says has changed."""
        with self._changed:
            self._changed.notify()

    def close(self) -> tuple[Item, ...]:
        """Finish the running batch and stop; returns what was never run."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        return self._schedule.drain()

    def _loop(self) -> None:
        while (batch := self._next()) is not None:
            self._run(batch)

    def _next(self) -> Batch[Item] | None:
        with self._changed:
            while not self._closed:
                more = self._more_coming()
                batch = self._schedule.next_batch(self._clock(), more_coming=more)
                if batch is not None:
                    return batch
                self._changed.wait(self._schedule.wait_s(self._clock(), more_coming=more))
        return None
