"""Model hubs: an id becomes a folder with the checkpoint's files. Alone imports modelscope."""

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path, PurePosixPath

from vit_engine.errors import CheckpointError, one_line
from vit_export.checkpoints.weight_files import INDEX, PICKLE, SAFETENSORS, sha256_of

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
HUGGING_FACE = "hf:"
NOT_CACHED = "not in the local cache; run once without --offline"


def download(model: str, *, revision: str | None, offline: bool) -> tuple[Path, str]:
    """Fetch `owner/name` from ModelScope, or `hf:owner/name`; return (folder, revision).

    Only the configs and one set of weights travel, through the hub's own client and cache. The
    revision is a commit from Hugging Face, a branch or tag from ModelScope. `CheckpointError`
    for a model that is not there, cannot be reached, or does not arrive whole.
    """
    name = model.removeprefix(HUGGING_FACE)
    if not ID.fullmatch(name):
        raise CheckpointError(
            f"{model!r} is no folder and no model id; expected 'demo', a folder, "
            "'owner/name' (ModelScope) or 'hf:owner/name' (Hugging Face)"
        )
    fetch = _from_modelscope if name == model else _from_hugging_face
    try:
        with redirect_stdout(sys.stderr):  # stdout belongs to results
            return fetch(name, revision, offline)
    except CheckpointError as e:
        raise CheckpointError(f"{model}: {e}") from e
    except Exception as e:  # the clients' errors have no common base
        raise CheckpointError(f"{model}: {_reason(e)}") from e


def chosen_files(listing: Collection[str]) -> list[str]:
    """Return what to fetch of a repository's files: the configs and one set of weights."""
    for name in listing:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise CheckpointError(f"the hub lists {name!r}, which leaves the model's folder")
    configs = ["config.json", "preprocessor_config.json"]
    for name in configs:
        if name not in listing:
            raise CheckpointError(f"the hub lists no {name}; it is needed")
    for whole in (SAFETENSORS, PICKLE):
        if whole in listing:
            return [*configs, whole]
        if whole + INDEX in listing:
            shard = re.compile(r"-\d+-of-\d+".join(map(re.escape, re.split(r"(?=\.)", whole))))
            return [*configs, whole + INDEX, *sorted(filter(shard.fullmatch, listing))]
    raise CheckpointError(f"the hub lists no {SAFETENSORS} and no {PICKLE}, whole or sharded")


def _from_modelscope(name: str, revision: str | None, offline: bool) -> tuple[Path, str]:
    from modelscope import snapshot_download
    from modelscope_hub import HubApi
    from modelscope_hub.errors import CacheNotFound

    revision = revision or "master"
    if offline:
        try:
            folder = snapshot_download(name, revision=revision, local_files_only=True)
        except CacheNotFound as e:
            raise CheckpointError(NOT_CACHED) from e
        return Path(folder), revision
    endpoint = HubApi().resolve_endpoint_for_read(name)
    files = HubApi(endpoint=endpoint).list_repo_files(name, "model", revision=revision)
    hashes = {file.path: file.sha256 for file in files if file.type != "tree"}
    folder = snapshot_download(
        name, revision=revision, allow_patterns=chosen_files(hashes), endpoint=endpoint
    )
    return _verified(Path(folder), hashes), revision


def _from_hugging_face(name: str, revision: str | None, offline: bool) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    if offline:  # snapshot_download would miss the files that we never fetched
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(config, str):
            raise CheckpointError(NOT_CACHED)
        return Path(config).parent, Path(config).parent.name
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
            raise CheckpointError(f"{name} has sha256 {actual:.16}, the hub lists {expected:.16}")
    return folder


def _reason(error: BaseException) -> str:
    """Return why a hub's client failed and what to do about it."""
    failed = getattr(error, "failed_files", None)  # modelscope's error for some of many files
    if failed:
        name, why = next(iter(failed.items()))
        return f"{name} did not arrive whole ({one_line(_root(why), 160)}); try again"
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if 404 in (getattr(cause, "status_code", None), getattr(response, "status_code", None)):
            return "the hub has no such model or revision (404)"
    return (
        f"cannot be downloaded ({type(error).__name__}: {one_line(_root(error), 160)}); "
        "check the network and the hub's address"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _root(error: BaseException) -> BaseException:
    """Return the error behind the clients' own, which are long, or in Chinese."""
    *_, root = _causes(error)
    return root
