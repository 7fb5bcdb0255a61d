"""Compiled models of OpenVINO's, kept for the next opening."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vit_engine.errors import WriteError, one_line
from vit_engine.machine import processor
from vit_engine.machine.atomic import write_whole
from vit_engine.providers.engine_cache import EngineCache, NoCacheError, file_sha256
from vit_engine.providers.provider import SessionSpec

log = logging.getLogger(__name__)

BLOB = "model.blob"


def cache_key(spec: SessionSpec, settings: Mapping[str, Any], version: str) -> dict[str, str]:
    """Return all that a compiled model depends on."""
    cpu = processor.cpu()
    return {
        # The engine has held the file against the one in its contract.
        "artefact": spec.contract.content_sha256 or file_sha256(spec.path),
        "openvino": version,
        "cpu": f"{cpu.name}: {' '.join(cpu.features)}",
        **{name: str(value) for name, value in settings.items()},
    }


def kept_model(
    compiled: Callable[[], Any], loaded: Callable[[Path], Any], key: Mapping[str, str]
) -> Any:
    """Return the compiled model, from where it is kept or else kept from now on."""
    try:
        cache = EngineCache.of(key, "OpenVINO")
    except NoCacheError as e:
        log.warning("%s; until then each start compiles the model anew", e)
        return compiled()
    with cache.locked():
        if not cache.is_valid():
            cache.clear()
            model = compiled()
            try:
                write_whole(cache.folder / BLOB, model.export_model().getvalue())
                cache.commit()
            except WriteError as e:
                log.warning("the compiled model is not kept: %s", e)
            return model
    try:
        return loaded(cache.folder / BLOB)
    except RuntimeError as e:
        log.warning("the stored OpenVINO model does not load (%s); compiling it", one_line(e))
        return compiled()
