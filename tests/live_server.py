"""`minilearner serve` in a process of its own, and a client of it on sockets."""

import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path


class LiveServer:
    """A running server. Use it as a context; leaving it sends SIGTERM."""

    def __init__(self, model, *options):
        self.command = [
            sys.executable,
            "-m",
            "minilearner",
            "serve",
            "-m",
            str(model),
            "--port",
            "0",
            *map(str, options),
        ]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(self.process.communicate()[1])
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *error):
        self.end()

    def end(self):
        """Ends the server as an operator does, and returns its exit code and what it wrote to standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, self.err = self.process.communicate(timeout=60)
        return self.process.returncode

    def request(self, method, path, body=b"", headers=None, timeout=60):
        """Returns the status and the JSON of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def predict(self, *files, **options):
        """Sends files, each a path or a pair of name and bytes."""
        pairs = [(one.name, one.read_bytes()) if isinstance(one, Path) else one for one in files]
        return self.request("POST", "/predict", *make_form(pairs), **options)

    def megabytes(self):
        """The memory of the server's process that is in use."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def make_form(files, field="file"):
    """Returns the body and the headers of a form with these (name, bytes)."""
    boundary = b"a-boundary-that-no-image-holds"
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
        % (boundary, field.encode(), name if isinstance(name, bytes) else name.encode(), content)
        for name, content in files
    ]
    body = b"".join(parts) + b"--%s--\r\n" % boundary
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}
