"""The HTTP application: `POST /predict` with one or several images, and `GET /health`."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from typing import Any

from minilearner import __version__
from minilearner.data.item_loader import ItemLoader
from minilearner.errors import DataError
from minilearner.learner import Learner
from minilearner.serving.answers import predict_items
from minilearner.serving.batcher import Batcher
from minilearner.serving.guard import Application, Guard
from minilearner.serving.limits import Limits, Refusal
from minilearner.serving.uploads import Upload, check_upload

__all__ = ["make_app"]

_HOW_TO_SEND = "Send images as a form, each as a part `file`: curl -F file=@photo.jpg http://.../predict"


def make_app(learn: Learner, limits: Limits | None = None, *, name: str = "model") -> Application:
    """Returns an ASGI application that predicts images, for uvicorn or any other server.

    Args:
        learn: the learner, such as `load_learner` returns.
        limits: what is accepted at most.
        name: what `/health` calls the model.

    Raises:
        DataError: the learner does not take image files.
    """
    # An extra. It reads the annotations of the functions below, so this file does not postpone them.
    from fastapi import FastAPI, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    if not isinstance(learn.dls.train, ItemLoader):
        raise DataError("only models of image files can be served, and this one takes arrays.")
    limits = Limits() if limits is None else limits

    # The pages that FastAPI shows of an application load scripts from another server.
    live = functools.partial(_run_batcher, learn)
    app = FastAPI(title=f"minilearner: {name}", version=__version__, lifespan=live, docs_url=None, redoc_url=None)

    async def health() -> dict[str, Any]:
        """Says that the model is ready, and what its classes are."""
        return {"status": "ok", "model": name, "classes": list(map(str, learn.dls.vocab or ()))}

    async def predict(request: Request, file: list[UploadFile]) -> dict[str, Any]:
        """Predicts one or several images, each in a part `file` of a form."""
        uploads = [Upload(await upload.read(), upload.filename or "") for upload in file]
        answers = await _predict(request.app.state.batcher, uploads, limits)
        return {"predictions": [{"file": up.name, **answer} for up, answer in zip(uploads, answers, strict=True)]}

    async def explain(request: Request, error: Any) -> JSONResponse:
        """Answers an error as JSON."""
        if isinstance(error, Refusal):
            return JSONResponse({"error": error.reason}, error.status)
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code)
        if not isinstance(error, RequestValidationError):
            return JSONResponse({"error": "The server failed, and has written why to its standard error."}, 500)
        return JSONResponse({"error": _HOW_TO_SEND}, 422)

    app.add_api_route("/health", health)
    app.add_api_route("/predict", predict, methods=["POST"])
    for kind in (Refusal, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, explain)
    return Guard(app, limits)


@contextlib.asynccontextmanager
async def _run_batcher(learn: Learner, app: Any) -> AsyncIterator[None]:
    """Predicts in batches as long as the application lives."""
    app.state.batcher = Batcher(functools.partial(predict_items, learn), learn.dls.bs)
    with learn.no_bar():
        running = asyncio.create_task(app.state.batcher.run())
        yield
        running.cancel()


async def _predict(batcher: Batcher, uploads: Sequence[Upload], limits: Limits) -> list[dict[str, Any]]:
    """Returns the answer for each upload.

    Raises:
        Refusal: the limits do not allow it, an upload is no image, or there is no answer in time.
    """
    if len(uploads) > limits.files:
        raise Refusal(413, f"There are {len(uploads)} files, and at most {limits.files} are accepted.")
    for upload in uploads:
        check_upload(upload, limits)
    try:
        return await asyncio.wait_for(batcher.predict(uploads), limits.seconds)
    except DataError as error:
        raise Refusal(422, str(error)) from error
    except asyncio.TimeoutError as error:
        raise Refusal(503, f"No answer within {limits.seconds:g} seconds. Try again.") from error
