"""The controller: one contender computes at a time, and what fails is out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from comparison.harness.worker_process import FailedError, Process, Request


class Field:
    """The contenders still in the race. What fails leaves it, and `failures` says why."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.failures: dict[str, FailedError] = {}
        self._closed = False

    def add(self, name: str, start: Callable[[], Process]) -> Process:
        """Start a contender's process and return it."""
        process = self.processes[name] = start()
        if self._closed:  # by another thread
            self.leave(name)
            raise FailedError("absent", "the comparison has ended")
        return process

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Turn a failure within the block into the contender's leaving."""
        try:
            yield
        except FailedError as e:
            self.failures[name] = e
            self.leave(name)

    def leave(self, name: str) -> None:
        """End a contender's process, if it has one."""
        process = self.processes.pop(name, None)
        if process:
            process.close()

    def ask(self, name: str, request: Request, limit: float) -> dict[str, Any] | None:
        """Ask one contender; None if it is out or goes out by this."""
        if name in self.processes:
            with self.watch(name):
                return self.processes[name].ask(request, limit)
        return None

    def take_turns(
        self,
        requests: dict[str, Request],
        *,
        rounds: int,
        limit: float,
        each: Callable[[int, str], None] = lambda _round, _name: None,
    ) -> dict[str, list[dict[str, Any]]]:
        """Let the named contenders answer their request once a round, in rotating order.

        Only those that answered in every round are in the result: a contender that fails midway
        has no times at all.
        """
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in requests}
        for i in range(rounds):
            for name in rotated([n for n in requests if n in self.processes], i):
                each(i, name)
                answer = self.ask(name, requests[name], limit)
                if answer is not None:
                    answers[name].append(answer)
        return {name: found for name, found in answers.items() if len(found) == rounds}

    def close(self) -> None:
        """End every process; none starts any more."""
        self._closed = True
        while self.processes:
            self.processes.popitem()[1].close()


def rotated(names: Sequence[str], by: int) -> list[str]:
    """Return the names starting at another one each round: no one always follows the same."""
    start = by % len(names) if names else 0
    return [*names[start:], *names[:start]]
