"""The page and what it asks for. Everything is answered by number, in a bounded time, or refused in a sentence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from stoa.files import StorageError
from stoa.search.query import Found, Searcher
from stoa.serve.desk import Desk
from stoa.serve.guarding import Guarded
from stoa.serve.library import Library, media_type
from stoa.serve.limits import Limits
from stoa.serve.page import Page, static_files
from stoa.serve.parts import Parts
from stoa.serve.ranges import PartResponse
from stoa.serve.receiving import receive, uploaded
from stoa.serve.refusing import Refused, in_a_sentence
from stoa.serve.words import results_of
from stoa.serve.worker import Worker

T = TypeVar("T")
_READ = ["GET", "HEAD"]


class Asked(BaseModel):
    """What is asked about a window; ``text`` is a question, or a caption to explain."""

    start: float
    end: float
    text: str = ""


@contextmanager
def serving(
    searcher: Searcher, *, host: str, small: bool, top_k: int = 6, limits: Limits | None = None
) -> Iterator[ASGIApp]:
    """The application.

    Args:
        searcher: an index in memory, and its model.
        host: that it listens on.
        small: whether the model is the one that comes with the package.
        top_k: hits of a search.
        limits: of requests.
    """
    limits = limits or Limits()
    library = Library(searcher)
    models, cutters = Worker("stoa-model", limits.waiting), Worker("stoa-cutter", limits.waiting)
    with tempfile.TemporaryDirectory(prefix="stoa-serve-", ignore_cleanup_errors=True) as name:
        folders = Path(name, "uploads"), Path(name, "parts")
        for folder in folders:
            folder.mkdir()
        desk, parts = Desk(searcher, library, top_k), Parts(library, folders[1], limits)
        try:
            app = _app(desk, library, parts, models, cutters, Page(searcher, desk, small, limits), folders[0], limits)
            yield Guarded(app, host)
        finally:
            models.close()
            cutters.close()


def _app(
    desk: Desk,
    library: Library,
    parts: Parts,
    models: Worker,
    cutters: Worker,
    page: Page,
    uploads: Path,
    limits: Limits,
) -> FastAPI:
    # Its pages about itself would be read from another host.
    app = FastAPI(title="stoa", redirect_slashes=False, openapi_url=None, docs_url=None, redoc_url=None)
    files = static_files()

    async def work(request: Request, worker: Worker, job: Callable[[], T]) -> T:
        try:
            return await worker.do(job, seconds=limits.work_seconds, gone=request.is_disconnected)
        except StorageError:
            raise Refused(507, "There is no room for this on the disk.") from None
        except (ValueError, OSError) as error:
            said = in_a_sentence(error, desk.searcher.index.sources.videos, uploads.parent)
            raise Refused(422, said) from None

    async def asked(request: Request) -> Asked:
        body = bytearray()
        await receive(request, limits.form_bytes, limits.upload_seconds, body.extend)
        try:
            given = Asked.model_validate_json(bytes(body))
            given.text.encode()
        except (ValidationError, UnicodeEncodeError):
            raise Refused(422, "This is no question about a window.") from None
        require_short(given.text)
        return given

    def require_short(text: str) -> None:
        if len(text) > limits.text_characters:
            raise Refused(422, f"This has {len(text):,} characters; {limits.text_characters} are read. Say it shorter.")

    @app.get("/")
    async def search(request: Request, q: str = "") -> HTMLResponse:
        text, found = " ".join(q.split()), None
        try:
            require_short(text)
            if text:
                found = await work(request, models, lambda: desk.search(text))
        except Refused as refused:
            shown = page.whole(text[: limits.text_characters], None, refused.sentence)
            return HTMLResponse(shown, refused.status, refused.headers)
        return HTMLResponse(page.whole(text, None if found is None else results_of(found, by_text=True)))

    @app.post("/pictures")
    async def search_picture(request: Request) -> HTMLResponse:
        def look() -> list[Found]:
            return desk.search_picture(path)

        async with uploaded(request, uploads, limits.upload_bytes, limits.upload_seconds) as path:
            found = await work(request, models, look)
        return HTMLResponse(page.hits(results_of(found, by_text=False)))

    @app.api_route("/videos/{number}", methods=_READ)
    def video(request: Request, number: str) -> Response:
        state = library.state(number)
        return PartResponse(library.open(state), media_type(state), request.headers)

    @app.api_route("/videos/{number}/part", methods=_READ)
    async def part_of_video(
        request: Request, number: str, start: Annotated[float, Query()], end: Annotated[float, Query()]
    ) -> Response:
        part = library.part(number, start, end)
        file = await work(request, cutters, lambda: parts.opened(part))
        return PartResponse(file, "video/mp4", request.headers)

    @app.post("/videos/{number}/caption")
    async def caption(request: Request, number: str) -> JSONResponse:
        given = await asked(request)
        part = library.part(number, given.start, given.end)
        return JSONResponse({"text": await work(request, models, lambda: desk.caption(part))})

    @app.post("/videos/{number}/answer")
    async def answer(request: Request, number: str) -> JSONResponse:
        given = await asked(request)
        part = library.part(number, given.start, given.end)
        if not given.text.strip():
            raise Refused(422, "The question is empty. Ask one.")
        return JSONResponse({"text": await work(request, models, lambda: desk.answer(part, given.text))})

    @app.post("/videos/{number}/explain")
    async def explain(request: Request, number: str) -> Response:
        given = await asked(request)
        part = library.part(number, given.start, given.end)
        png = await work(request, models, lambda: desk.explain(part, given.text.strip()))
        return Response(png, media_type="image/png")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        content, kind = files[name]
        return Response(content, media_type=kind, headers={"Cache-Control": "private, no-cache"})

    @app.exception_handler(Refused)
    def refuse(_: Request, refused: Refused) -> JSONResponse:
        return JSONResponse({"error": refused.sentence}, refused.status, refused.headers)

    @app.exception_handler(HTTPException)
    def unknown(_: Request, error: HTTPException) -> JSONResponse:
        said = "This page has no such address." if error.status_code in (404, 405) else "This cannot be read."
        return JSONResponse({"error": said}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, __: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": "The address lacks something, or holds what is no number."}, 422)

    @app.exception_handler(Exception)
    def failed(_: Request, __: Exception) -> JSONResponse:  # the traceback goes to where stoa serve was started
        return JSONResponse({"error": "Something went wrong; where stoa serve was started it says what."}, 500)

    return app
