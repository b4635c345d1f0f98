"""A small stand-in for the Hugging Face Hub, with connections that break where a test wants them to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)  # of every repository, all the same


@dataclass
class Hub:
    """What the server has and does.

    repos : files of each repository, by name; a data set's begins with "datasets/".
    gated : repositories that need a token.
    break_after : bytes of a file after which every connection breaks; None for none.
    lie : send other bytes than the announced checksum is of.
    etag, commit, listing : answered instead of the right ones.
    downloads : (file, first byte) of each download that began.
    """

    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    break_after: int | None = None
    lie: bool = False
    etag: str | None = None
    commit: str = COMMIT
    listing: bytes | None = None
    downloads: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._list(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(match[1], match[2], body)
        else:
            self._send(404, {}, b"")

    def _refused(self, repo: str) -> bool:
        if repo in self.hub.gated:
            self._send(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b"")
        elif repo not in self.hub.repos:
            self._send(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"")
        else:
            return False
        return True

    def _list(self, repo: str, revision: str) -> None:
        if self._refused(repo):
            return
        if revision not in REVISIONS:
            self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b"")
            return
        files = [{"rfilename": name} for name in self.hub.repos[repo]]
        info = {"id": repo, "sha": COMMIT, "private": False, "siblings": files}
        body = json.dumps(info).encode() if self.hub.listing is None else self.hub.listing
        self._send(200, {"Content-Type": "application/json"}, body)

    def _file(self, repo: str, name: str, body: bool) -> None:
        if self._refused(repo):
            return
        content = self.hub.repos[repo].get(name)
        if content is None:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"")
            return
        etag = self.hub.etag or hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit}
        if not body:
            self._send(200, headers | {"Content-Length": str(len(content))}, None)
            return
        if self.hub.lie:
            content = bytes(len(content))
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        self.hub.downloads.append((name, start))
        if match:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        headers["Content-Length"] = str(len(rest))
        if self.hub.break_after is None:
            self._send(206 if match else 200, headers, rest)
            return
        self._send(206 if match else 200, headers, rest[: max(0, self.hub.break_after - start)])
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if body is not None and "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body is not None and self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve in the background; `hub.url` is where."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
