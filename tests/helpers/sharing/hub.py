"""A local stand-in of the Hugging Face hub: the part of its API that an upload of a folder asks for."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_owner"
OWNER = "someone"
COMMIT = "a" * 40


@dataclass
class Hub:
    """Repositories by name, with their files; large ones arrive by git LFS, as on the hub."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)  # private ones of others: the hub answers as if they did not exist
    gated: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded by LFS, by sha256
    messages: list[str] = field(default_factory=list)  # of commits

    def create(self, about: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer to POST /api/repos/create."""
        name = f"{about.get('organization') or OWNER}/{about['name']}"
        if not name.startswith(f"{OWNER}/"):
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        self.repositories[name] = {}
        if about.get("private") or about.get("visibility") == "private":
            self.private.add(name)
        return 200, {"url": f"{self.address}/{name}", "name": name}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Answer to POST /api/models/NAME/commit/main, whose body has a line for each file."""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                self.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repositories[name][value["path"]] = self.objects[value["oid"]]
        return {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}


class Handler(BaseHTTPRequestHandler):
    """Routes of the stand-in. The subclass that `serve_hub` makes has the hub."""

    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def answer(self, status: int, content: object = None, **headers: str) -> None:
        body = json.dumps({} if content is None else content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def refuse(self, name: str) -> bool:
        """Answer as the hub does for a repository that the token may not use; whether it did."""
        if name in self.hub.hidden or name not in self.hub.repositories:
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif name in self.hub.gated:
            self.answer(403, {"error": "Access to model is restricted"}, X_Error_Code="GatedRepo")
        else:
            return False
        return True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if path.startswith("/api/models/"):
            if not self.refuse(name):
                self.answer(200, {"id": name, "sha": COMMIT, "siblings": [], "tags": [], "private": False})
        else:
            self.answer(200)

    def do_PUT(self) -> None:
        self.hub.objects[self.path.rpartition("/")[2]] = self.body()
        self.answer(200)

    def do_POST(self) -> None:
        body, path = self.body(), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/repos/create":
            return self.answer(*self.hub.create(json.loads(body)))
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            action = {o["oid"]: {"upload": {"href": f"{self.hub.address}/lfs/{o['oid']}"}} for o in objects}
            return self.answer(200, {"objects": [{**o, "actions": action[o["oid"]]} for o in objects]})
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if self.refuse(name):
            return None
        if "/preupload/" in path:
            modes = {
                f["path"]: "lfs" if f["path"].endswith("safetensors") else "regular" for f in json.loads(body)["files"]
            }
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self.answer(200, {"files": files})
        return self.answer(200, self.hub.commit(name, [json.loads(line) for line in body.splitlines() if line]))


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
