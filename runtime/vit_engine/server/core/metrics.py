"""Counts and times in Prometheus' text format. Labels come from closed sets alone."""

import bisect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

Sample = tuple[tuple[str, ...], float]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Counter:
    """A number for each combination of labels, which only grows."""

    kind = "counter"

    def __init__(self, name: str, words: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.words, self.labels = name, words, labels
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        self._lock = threading.Lock()

    def add(self, *labels: str, by: float = 1) -> None:
        """Add to the number of these labels."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + by

    def value(self, *labels: str) -> float:
        """Return the number of these labels."""
        return self._values.get(labels, 0)

    def lines(self) -> Iterator[str]:
        """Yield one line for each combination of labels."""
        with self._lock:
            values = list(self._values.items())
        for found, value in values:
            yield _line(self.name, self.labels, found, value)


class Gauge:
    """Numbers that are looked up when they are asked for."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        words: str,
        labels: tuple[str, ...],
        samples: Callable[[], Iterable[Sample]],
    ) -> None:
        self.name, self.words, self.labels = name, words, labels
        self._samples = samples

    def lines(self) -> Iterator[str]:
        """Yield one line for each sample."""
        for found, value in self._samples():
            yield _line(self.name, self.labels, found, value)


class Histogram:
    """How often a value was at most each bound, for each combination of labels."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        words: str,
        labels: tuple[str, ...] = (),
        bounds: Sequence[float] = SECONDS,
    ) -> None:
        self.name, self.words, self.labels = name, words, labels
        self._bounds = bounds
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def observe(self, value: float, *labels: str) -> None:
        """Count one value."""
        with self._lock:
            counts = self._counts.setdefault(labels, [0] * (len(self._bounds) + 1))
            counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + value

    def total(self, *labels: str) -> tuple[int, float]:
        """Return how many values of these labels were counted, and their sum."""
        with self._lock:
            return sum(self._counts.get(labels, ())), self._sums.get(labels, 0.0)

    def lines(self) -> Iterator[str]:
        """Yield the buckets, the sum and the count of each combination of labels."""
        with self._lock:
            found = [(k, list(counts), self._sums[k]) for k, counts in self._counts.items()]
        names = (*self.labels, "le")
        for labels, counts, total in found:
            so_far = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                so_far += count
                le = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield _line(f"{self.name}_bucket", names, (*labels, le), so_far)
            yield _line(f"{self.name}_sum", self.labels, labels, total)
            yield _line(f"{self.name}_count", self.labels, labels, so_far)


class Metrics:
    """All that a server counts; every request once, by its route and the status of its answer."""

    def __init__(self) -> None:
        self.requests = Counter(
            "vit_requests_total",
            "Requests that have ended; status 499 where the client left before",
            ("route", "status"),
        )
        self.request_seconds = Histogram(
            "vit_request_seconds", "From the head of a request to the end of its answer", ("route",)
        )
        self.refusals = Counter(
            "vit_refusals_total", "Requests without labels, by their error_code", ("reason",)
        )
        self.body_bytes = Counter("vit_body_bytes_total", "Bytes of bodies received")
        self.images = Counter(
            "vit_images_total",
            "Images and tensors that were answered: ok, an error_code, or dropped",
            ("model", "outcome"),
        )
        self.stage_seconds = Histogram(
            "vit_stage_seconds", "Time of an image in queues, decoder, engine", ("model", "stage")
        )
        self.batch_images = Histogram(
            "vit_batch_images", "Images of a batch", ("model",), bounds=BATCHES
        )
        self.engine_runs = Counter(
            "vit_engine_runs_total", "Batches by how they ended", ("model", "outcome")
        )
        self.decoder_restarts = Counter(
            "vit_decoder_restarts_total", "Decoder processes started again", ("model",)
        )
        self._gauges: list[Gauge] = []

    def gauge(
        self,
        name: str,
        words: str,
        labels: tuple[str, ...],
        samples: Callable[[], Iterable[Sample]],
    ) -> None:
        """Show numbers that somebody else knows."""
        self._gauges.append(Gauge(name, words, labels, samples))

    def text(self) -> str:
        """Return everything in Prometheus' text format, version 0.0.4."""
        families = [f for f in vars(self).values() if isinstance(f, Counter | Histogram)]
        lines: list[str] = []
        for family in [*families, *self._gauges]:
            lines.append(f"# HELP {family.name} {family.words}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines.extend(family.lines())
        return "\n".join(lines) + "\n"


def _line(name: str, labels: Sequence[str], found: Sequence[str], value: float) -> str:
    pairs = ",".join(f'{n}="{_escaped(v)}"' for n, v in zip(labels, found, strict=True))
    number = str(int(value)) if float(value).is_integer() else repr(float(value))
    return f"{name}{{{pairs}}} {number}" if pairs else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
