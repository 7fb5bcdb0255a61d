"""A model hub on 127.0.0.1: as much of ModelScope's and Hugging Face's APIs as clients ask for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

MODEL = "someone/tiny-vit"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class LoopbackHub:
    """One model, its files in memory; the knobs make it a bad hub."""

    files: dict[str, bytes]
    url: str = ""
    listed_besides: list[str] = field(default_factory=list)  # in the listing, not in `files`
    wrong: set[str] = field(default_factory=set)  # served with a byte changed
    cut: set[str] = field(default_factory=set)  # the connection ends half way
    status: int = 200  # of every answer, where it is an error
    fetched: list[str] = field(default_factory=list)  # bodies asked for, in order

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def listing(self) -> dict[str, object]:
        bodies = self.files | dict.fromkeys(self.listed_besides, b"")
        return {
            "Code": 200,
            "Success": True,
            "Data": {
                "Files": [
                    {
                        "Path": name,
                        "Name": name.rsplit("/", 1)[-1],
                        "Type": "blob",
                        "Size": len(body),
                        "Sha256": hashlib.sha256(body).hexdigest(),
                    }
                    for name, body in bodies.items()
                ]
            },
        }

    def hugging_face_listing(self, name: str, hash_name: str) -> list[dict[str, object]]:
        bodies = self.files | dict.fromkeys(self.listed_besides, b"")
        return [
            {
                "type": "file",
                name: path,
                "oid": hashlib.sha1(body).hexdigest(),
                "size": len(body),
                "lfs": {
                    hash_name: hashlib.sha256(body).hexdigest(),
                    "size": len(body),
                    "pointerSize": 130,
                },
            }
            for path, body in bodies.items()
        ]

    def hugging_face_info(self) -> dict[str, object]:
        return {
            "id": MODEL,
            "sha": COMMIT,
            "siblings": self.hugging_face_listing("rfilename", "sha256"),
        }

    def body(self, name: str) -> bytes:
        whole = self.files[name]
        return whole[:-1] + bytes([whole[-1] ^ 1]) if name in self.wrong else whole


@contextmanager
def serving(folder: Path, model: str = MODEL) -> Iterator[LoopbackHub]:
    """Serve the files of a folder as `model` until the block ends."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.*"))}
    hub = LoopbackHub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            api = f"/api/models/{model}"  # Hugging Face's
            if hub.status != HTTPStatus.OK:
                self.answer(HTTPStatus(hub.status), b'{"Code": 1, "Message": "no"}')
                return
            known = query.get("Revision") == "master"
            if known and url.path == f"/api/v1/models/{model}/repo/files":
                self.answer(HTTPStatus.OK, json.dumps(hub.listing()).encode())
            elif known and url.path == f"/api/v1/models/{model}/repo":
                self.answer_file(query["FilePath"])
            elif url.path in {api, f"{api}/revision/main"}:
                self.answer(HTTPStatus.OK, json.dumps(hub.hugging_face_info()).encode())
            elif url.path == f"{api}/tree/{COMMIT}":
                tree = hub.hugging_face_listing("path", "oid")
                self.answer(HTTPStatus.OK, json.dumps(tree).encode())
            elif url.path.startswith(f"/{model}/resolve/{COMMIT}/"):
                self.answer_file(url.path.rsplit("/", 1)[-1])
            else:
                self.answer(HTTPStatus.NOT_FOUND, b'{"Code": 404, "Message": "not found"}')

        def do_HEAD(self) -> None:
            name = self.path.removeprefix(f"/{model}/resolve/{COMMIT}/")
            if name not in hub.files:
                self.answer(HTTPStatus.NOT_FOUND, b"")
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("ETag", f'"{hashlib.sha256(hub.files[name]).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(hub.files[name])))
            self.end_headers()

        def answer_file(self, name: str) -> None:
            hub.fetched.append(name)
            if name not in hub.files:
                self.answer(HTTPStatus.OK, b"planted")
                return
            body = hub.body(name)
            asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
            start, end = int(asked[0]), int(asked[1] or len(body) - 1)
            part = body[start : end + 1]
            self.send_response(HTTPStatus.PARTIAL_CONTENT if "Range" in self.headers else 200)
            if "Range" in self.headers:
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(body)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if name in hub.cut:
                self.close_connection = True
                part = part[: len(part) // 2]
            self.wfile.write(part)

        def answer(self, status: HTTPStatus, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
