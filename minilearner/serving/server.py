"""Runs the HTTP application of a model until SIGTERM or Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from minilearner.loading import load_learner
from minilearner.serving.app import make_app
from minilearner.serving.limits import Limits
from minilearner.serving.protocol import make_protocol

__all__ = ["serve"]

_LONGEST_HEAD = 1 << 14


def serve(
    model: Path, host: str, port: int, limits: Limits, *, device: str | None, announce: Callable[[str], None]
) -> None:
    """Serves a model file. Ends on SIGTERM or Ctrl-C, after the requests that have come are answered.

    Args:
        model: the file.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        limits: what is accepted at most.
        device: where to predict.
        announce: receives the URL as soon as requests are accepted.

    Raises:
        OSError: the port is taken, or there is no such address.
    """
    import uvicorn  # an extra

    learn = load_learner(model, device=device)
    app = make_app(learn, limits, name=model.name)
    with learn.no_bar():
        learn.predict(Image.new("RGB", (64, 64)))  # so that the first request finds everything loaded
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    config = uvicorn.Config(
        app,
        http=make_protocol(limits),
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(max(1, limits.seconds)),
        timeout_graceful_shutdown=int(max(1, 2 * limits.seconds)),
        h11_max_incomplete_event_size=_LONGEST_HEAD,
    )
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listener.getsockname()[1]}")
    uvicorn.Server(config).run([listener])
