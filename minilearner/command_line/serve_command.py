"""`minilearner serve`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from minilearner.checks import check_positive
from minilearner.command_line.options import COUNT, Checked, model_option
from minilearner.command_line.run_folder import find_model
from minilearner.command_line.session import Session, command

__all__ = ["run"]

_POSITIVE = Checked(float, check_positive)


@command("serve")
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="0.0.0.0 is every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--device", metavar="NAME", help='Such as "cpu" or "cuda:1".  [default: the GPU if there is one]')
@click.option("--max-mb", "megabytes", type=_POSITIVE, default=20, show_default=True, help="The size of a request.")
@click.option(
    "--max-megapixels", "megapixels", type=_POSITIVE, default=50, show_default=True, help="The pixels of an image."
)
@click.option(
    "--max-files", "files", type=COUNT, default=32, show_default=True, metavar="N", help="Files in a request."
)
@click.option(
    "--max-requests", "requests", type=COUNT, default=32, show_default=True, metavar="N", help="Requests at once."
)
@click.option(
    "--timeout",
    "seconds",
    type=_POSITIVE,
    default=10,
    show_default=True,
    help="Seconds for a request, and for its answer.",
)
def run(session: Session, model: Path, host: str, port: int, device: str | None, **limits: float) -> None:
    """Serve a model over HTTP, until Ctrl-C or SIGTERM.

    \b
    curl -F file=@photo.jpg http://127.0.0.1:8000/predict
    curl http://127.0.0.1:8000/health

    Several parts `file` are predicted as a batch. There is no encryption and no password: for other machines, put a
    web server in front.
    """
    file = find_model(model)
    for library in ("fastapi", "uvicorn", "python_multipart"):
        if find_spec(library) is None:
            raise ImportError(f"serve needs {library}, which is not installed: pip install 'minilearner[serve]'.")
    from minilearner.serving.limits import Limits
    from minilearner.serving.server import serve

    def announce(url: str) -> None:
        session.show({"url": url}, url)
        session.tell(f"Serving {file} at {url}. Ctrl-C ends it.")

    serve(file, host, port, Limits(**limits), device=device, announce=announce)  # type: ignore[arg-type]
