"""Counts and times in Prometheus' text format. Labels come from closed sets alone."""

import os
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

import vit_engine

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the folder in which several fronts count together."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All that a server counts, in a registry of its own; each request once, when it has ended."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        least = partial(Gauge, registry=registry, multiprocess_mode="livemin")
        seconds = partial(Histogram, registry=registry, buckets=_SECONDS)

        words = "Requests that have ended; status 499 where the client left before"
        self.requests = counter("vit_requests_total", words, ["route", "status"])
        words = "From the head of a request to the end of its answer"
        self.request_seconds = seconds("vit_request_seconds", words, ["route"])
        words = "Requests whose answer has not ended, that to the question itself among them"
        self.requests_in_flight = gauge("vit_requests_in_flight", words)
        words = "Requests without labels, by their error_code"
        self.refusals = counter("vit_refusals_total", words, ["reason"])
        self.body_bytes = counter("vit_body_bytes_total", "Bytes of bodies received")
        words = "Lines of the access log that nobody read in time"
        self.dropped_log_lines = counter("vit_dropped_log_lines_total", words)
        words = "Images and tensors that were answered: ok, an error_code, or dropped"
        self.images = counter("vit_images_total", words, ["model", "outcome"])
        words = "Time of an image in queues, decoder, engine"
        self.stage_seconds = seconds("vit_stage_seconds", words, ["model", "stage"])
        name, words = "vit_batch_images", "Images of a batch"
        self.batch_images = Histogram(name, words, ["model"], registry=registry, buckets=_BATCHES)
        words = "Batches by how they ended"
        self.engine_runs = counter("vit_engine_runs_total", words, ["model", "device", "outcome"])
        words = "1 while the engine on a device takes images"
        self.engine_ready = least("vit_engine_ready", words, ["model", "device"])
        words = "Decoder processes started again"
        self.decoder_restarts = counter("vit_decoder_restarts_total", words)
        self.queue_images = gauge("vit_queue_images", "Images at each stage", ["model", "stage"])
        name, words = "vit_model_load_seconds", "From opening a model until its engine is warm"
        self.load_seconds = Gauge(
            name, words, ["model"], registry=registry, multiprocess_mode="livemostrecent"
        )
        self.decoders = gauge("vit_decoders", "Decoder processes")
        self.held_bytes = gauge("vit_held_bytes", "Bytes of bodies in memory")
        self.ready = least("vit_ready", "1 while requests are wanted")
        self.alive = least("vit_alive", "0 where a new process is needed")
        build = least("vit_build_info", "1, of this version", ["version"])
        build.labels(vit_engine.__version__).set(1)

    def stage(self, model: str, stage: str) -> tuple[int, float]:
        """Return how many images of a model have been through a stage, and their seconds in all."""
        labels, registry = {"model": model, "stage": stage}, self._of_all_fronts()
        count, seconds = (
            registry.get_sample_value(f"vit_stage_seconds_{kind}", labels) or 0.0
            for kind in ("count", "sum")
        )
        return int(count), seconds

    def text(self) -> bytes:
        """Return everything, of every front, in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._of_all_fronts())

    def _of_all_fronts(self) -> CollectorRegistry:
        """Return what is counted here or, where fronts share a folder, in all of them."""
        if FOLDER not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
