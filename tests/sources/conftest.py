"""A web server on loopback that misbehaves on request."""

import contextlib
import http.server
import re
import threading

import pytest


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        name = self.path[1:]
        server.requests.append((name, self.headers["Range"]))
        asked = re.match(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(asked[1]) if asked and server.ranges else 0
        if name not in server.files:
            self.send_error(404)
        elif start >= len(server.files[name]):
            self.send_error(416)
        else:
            self.send(server, server.files[name], start)

    def send(self, server, content, start):
        faulty = server.n_faulty is None or len(server.requests) <= server.n_faulty
        self.send_response(206 if start else 200)
        if start:
            begins = start + server.range_shift
            self.send_header("Content-Range", f"bytes {begins}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start + (server.lie if faulty else 0)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may hang up
            self.wfile.write(content[start:][: server.cut if faulty else None])
            if server.stall and faulty:
                server.stopped.wait(20)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.stopped = files, [], threading.Event()
        self.ranges, self.range_shift = True, 0
        self.n_faulty = None  # how many requests the faults below apply to; None: all
        self.cut, self.stall, self.lie = (
            None,
            False,
            0,
        )  # bytes sent before the end, then silence, excess bytes in Content-Length

    def url(self, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


@pytest.fixture
def serve(monkeypatch):
    """Starts and stops servers. Requests to loopback bypass the machine's proxy."""
    monkeypatch.setenv("no_proxy", "*")
    for name in ("MINILEARNER_MIRROR", "MINILEARNER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(**files):
        server = Server(files)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
