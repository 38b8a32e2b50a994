"""Runs batch handlers: to the rest of the worker each is an async handler of one request.

`Batcher` puts what is asked of that handler into the queue of `batches.py`, does what it says at the times it
says, and gives each request what came of it. It lives on the worker's event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from anyserve.batch_handlers import BatchHandler, Entry, Outcome
from anyserve.batches import Batches, Ticket
from anyserve.errors import Code, InferenceError
from anyserve.handlers import Handler, Reply
from anyserve.worker.answers import HandlerFailed, as_inference_error, awaited, called

if TYPE_CHECKING:
    from anyserve.app import Declaration
    from anyserve.worker.call_counts import CallCounts

__all__ = ["Batcher"]

EXPIRED = "the deadline passed while the request waited for its batch"


class _Pending:
    """A request that waits or runs, and where its outcome goes."""

    def __init__(self, entry: Entry, outcome: asyncio.Future[Outcome]) -> None:
        self.entry = entry
        self.outcome = outcome
        self.run: asyncio.Task[None] | None = None
        """The call that it is part of."""

    def settle(self, outcome: Outcome) -> None:
        """Gives the request its outcome, unless nobody waits for it any more."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Batcher:
    """Runs one batch handler.

    Args:
        batch_handler: what it runs.
        declaration: what it is the handler of.
        counts: of its calls, for the agent.
    """

    def __init__(self, batch_handler: BatchHandler, declaration: Declaration, counts: CallCounts) -> None:
        self._form = batch_handler
        self._declaration = declaration
        self._counts = counts
        self._batches: Batches[_Pending] = Batches(batch_handler.limits, declaration.max_concurrency)
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(batch_handler.limits.concurrency, thread_name_prefix="batch")
        self._looking: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._runs: dict[asyncio.Task[None], Sequence[_Pending]] = {}

    @property
    def handler(self) -> Handler:
        """The handler of one request."""
        return self._form.of_one(self._serve_one)

    def close(self) -> None:
        """Starts no more calls; those that run in threads are not waited for."""
        for handle in (self._looking, self._timer):
            if handle is not None:
                handle.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _serve_one(self, entry: Entry) -> Reply:
        """Has a request served as part of a batch.

        Raises:
            InferenceError: DEADLINE_EXCEEDED, its time was over before its batch began.
            Exception: what the handler raised, or returned for this request.
        """
        pending = _Pending(entry, self._loop.create_future())
        now, left = self._loop.time(), entry.context.time_remaining()
        deadline = math.inf if left is None else now + left
        ticket = self._batches.submit(pending, now=now, group=entry.group, size=entry.size, deadline=deadline)
        self._look_soon()
        expiry = None if left is None else self._loop.call_at(deadline, self._expire, ticket)
        try:
            outcome = await pending.outcome
        except asyncio.CancelledError:
            self._leave(ticket)
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _leave(self, ticket: Ticket[_Pending]) -> None:
        """A client has gone: its request does not wait any more, and a call that nobody awaits ends if it can."""
        self._batches.withdraw(ticket)
        run = ticket.item.run
        if run is None:
            self._look_soon()
        elif self._form.asynchronous and all(pending.outcome.done() for pending in self._runs.get(run, ())):
            run.cancel()

    def _expire(self, ticket: Ticket[_Pending]) -> None:
        if ticket.item.run is None:
            self._batches.withdraw(ticket)
            ticket.item.settle(InferenceError(Code.DEADLINE_EXCEEDED, EXPIRED))
            self._look_soon()

    def _look_soon(self) -> None:
        """Looks for batches to start once this turn of the loop is over: what it still brings goes along."""
        if self._looking is None:
            self._looking = self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (started := self._batches.start(self._loop.time())) is not None:
            for pending in started.expired:
                pending.settle(InferenceError(Code.DEADLINE_EXCEEDED, EXPIRED))
            if started.batch:
                self._run(started.batch)
        wake_at = self._batches.wake_at()
        if wake_at is not None:
            self._timer = self._loop.call_at(wake_at, self._look_soon)

    def _run(self, batch: Sequence[_Pending]) -> None:
        run = self._loop.create_task(self._serve(batch))
        self._runs[run] = batch
        for pending in batch:
            pending.run = run
        run.add_done_callback(self._ended)

    def _ended(self, run: asyncio.Task[None]) -> None:
        self._batches.ended(len(self._runs.pop(run)), self._loop.time())
        self._look_soon()

    async def _serve(self, batch: Sequence[_Pending]) -> None:
        entries = [pending.entry for pending in batch]
        outcomes: Sequence[Outcome]
        began = time.perf_counter_ns()
        try:
            if self._form.asynchronous:
                outcomes = await awaited(self._acall, entries)
            else:
                outcomes = await self._loop.run_in_executor(self._pool, called, self._call, entries)
        except HandlerFailed as error:  # it is told to each request, and logged once
            told = as_inference_error(error, self._declaration)
            outcomes = [InferenceError(told.code, told.message) for _ in batch]
        of, size = self._declaration, sum(entry.size for entry in entries)
        self._counts.add(of.model_name, of.model_version, size, time.perf_counter_ns() - began)
        for pending, outcome in zip(batch, outcomes, strict=True):
            pending.settle(outcome)

    def _call(self, entries: Sequence[Entry]) -> Sequence[Outcome]:
        return self._form.outcomes(entries, self._form.call(entries))

    async def _acall(self, entries: Sequence[Entry]) -> Sequence[Outcome]:
        return self._form.outcomes(entries, await self._form.call(entries))
