"""Model hubs: an id becomes a folder with the checkpoint's files. Alone imports modelscope."""

import os
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from pathlib import Path, PurePosixPath

from vit_engine.errors import CheckpointError
from vit_export.checkpoints.hub_failure import HUGGING_FACE_HUB, MODELSCOPE, reason_in_words
from vit_export.files.other_kinds import PICKLE, SAFETENSORS, no_weights, refuse_other_kinds
from vit_export.files.weight_files import INDEX, sha256_of
from vit_export.packages.open_clip import OPEN_CLIP
from vit_export.packages.package import CONFIG
from vit_export.packages.preprocessor import PREPROCESSOR, PROCESSOR
from vit_export.packages.texts.text_model import TOKENIZER_FILES

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
HUGGING_FACE = "hf:"
WEIGHTS = {CONFIG: (SAFETENSORS, PICKLE), OPEN_CLIP.config: OPEN_CLIP.weights}
"""Where weights lie, by the config that tells what they are of: the first that is there."""
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Hugging Face's, the first that is set counts; ModelScope has none, and heeds these here."""


def download(model: str, *, revision: str | None, offline: bool) -> tuple[Path, str]:
    """Fetch `owner/name` from ModelScope, or `hf:owner/name`; return (folder, revision).

    Only the configs, the tokenizer and one set of weights travel, through the hub's own client and
    cache. The revision is a commit from Hugging Face, a branch or tag from ModelScope.
    `CheckpointError` for a model that is not there, cannot be reached, or does not arrive whole.
    """
    name = model.removeprefix(HUGGING_FACE)
    why_offline = "--offline" if offline else _offline_variable()
    if not ID.fullmatch(name):
        raise CheckpointError(
            f"{model!r} is neither a folder nor a model id; expected 'demo', a folder, "
            "'owner/name' (ModelScope) or 'hf:owner/name' (Hugging Face)"
        )
    on_modelscope = name == model
    other = f"; this asked ModelScope, of Hugging Face it is hf:{name}" if on_modelscope else ""
    fetch = _from_modelscope if on_modelscope else _from_hugging_face
    try:
        with redirect_stdout(sys.stderr):  # stdout belongs to results
            found = fetch(name, revision, why_offline is not None)
    except CheckpointError as e:
        raise CheckpointError(f"{model}: {e}") from e
    except ModuleNotFoundError:  # which vit-export tells how to install
        raise
    except Exception as e:  # the clients' errors have no common base
        reason = reason_in_words(e, MODELSCOPE if on_modelscope else HUGGING_FACE_HUB)
        raise CheckpointError(f"{model}: {reason}{other}") from e
    if found is None:
        raise CheckpointError(
            f"{model}: not in the local cache; run once without {why_offline}{other}"
        )
    return found


def chosen_files(listing: Collection[str]) -> list[str]:
    """Return what to fetch of a repository's files: configs, tokenizer, one set of weights."""
    for name in listing:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise CheckpointError(f"the hub lists {name!r}, which leaves the model's folder")
    refuse_other_kinds(listing)
    told_by = next((name for name in WEIGHTS if name in listing), None)
    if told_by is None:
        raise CheckpointError(f"the hub lists no {' and no '.join(WEIGHTS)}; one is needed")
    # A timm model has no file for its preprocessing; whether one is needed, config.json tells.
    besides = (PREPROCESSOR, PROCESSOR, *TOKENIZER_FILES)
    configs = [told_by, *(name for name in besides if name in listing)]
    for whole in WEIGHTS[told_by]:
        if whole in listing:
            return [*configs, whole]
        if whole + INDEX in listing:
            shard = re.compile(r"-\d+-of-\d+".join(map(re.escape, re.split(r"(?=\.)", whole))))
            return [*configs, whole + INDEX, *sorted(filter(shard.fullmatch, listing))]
    raise CheckpointError(f"the hub lists {no_weights(listing, WEIGHTS[told_by])}")


def _offline_variable() -> str | None:
    """Return the environment variable that forbids the network, None if there is none."""
    name = next(filter(os.environ.get, OFFLINE_VARIABLES), None)
    return name if name and os.environ[name].upper() in {"1", "ON", "YES", "TRUE"} else None


def _from_modelscope(name: str, revision: str | None, offline: bool) -> tuple[Path, str] | None:
    """Return (folder, revision), None if it is to be in the cache and is not."""
    from modelscope import snapshot_download
    from modelscope_hub import HubApi
    from modelscope_hub.errors import CacheNotFound

    revision = revision or "master"
    if offline:
        try:
            folder = snapshot_download(name, revision=revision, local_files_only=True)
        except CacheNotFound:
            return None
        return Path(folder), revision
    endpoint = HubApi().resolve_endpoint_for_read(name)
    files = HubApi(endpoint=endpoint).list_repo_files(name, "model", revision=revision)
    hashes = {file.path: file.sha256 for file in files if file.type != "tree"}
    folder = snapshot_download(
        name, revision=revision, allow_patterns=chosen_files(hashes), endpoint=endpoint
    )
    return _verified(Path(folder), hashes), revision


def _from_hugging_face(name: str, revision: str | None, offline: bool) -> tuple[Path, str] | None:
    """Return (folder, revision), None if it is to be in the cache and is not."""
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    if offline:  # snapshot_download would miss the files that we never fetched
        cached = (try_to_load_from_cache(name, told_by, revision=revision) for told_by in WEIGHTS)
        folder = next((Path(path).parent for path in cached if isinstance(path, str)), None)
        return (folder, folder.name) if folder else None
    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    files = info.siblings or ()
    hashes = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in files}
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=chosen_files(hashes)))
    return _verified(folder, hashes), folder.name


def _verified(folder: Path, hashes: Mapping[str, str | None]) -> Path:
    """Return the folder once each file has the sha256 that the hub lists, if it lists one."""
    for name in chosen_files(hashes):
        path, expected = folder / name, hashes[name]
        if expected and (actual := sha256_of((path,))) != expected:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise CheckpointError(
                f"{name} has sha256 {actual:.16}, the hub lists {expected:.16}; "
                "it was deleted, try again"
            )
    return folder
