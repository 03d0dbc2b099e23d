"""The server of the pages: what stands at which address. It only reads, and answers nothing but GET."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from glyphrl.errors import UserError
from glyphrl.evaluation.viewer import evaluation_pages, run_pages
from glyphrl.evaluation.viewer.context import Viewer
from glyphrl.evaluation.viewer.curves import charts
from glyphrl.evaluation.viewer.filters import BadRequestError
from glyphrl.evaluation.viewer.images import ImageFinder
from glyphrl.evaluation.viewer.index import Index
from glyphrl.evaluation.viewer.pages import ASSETS, asset
from glyphrl.evaluation.viewer.runs import Run, open_runs
from glyphrl.evaluation.viewer.security import Access, Guard


def build_app(viewer: Viewer, access: Access) -> Guard:
    """The application over an index that somebody keeps up to date."""

    def on(work: Callable[[Viewer, Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:  # no coroutine: Starlette runs it in a thread
            return work(viewer, request)

        return answer

    step = "/run/{run:int}/step/{step:int}"
    model = "/run/{run:int}/evaluation/{model}"
    app = Starlette(
        routes=[
            Route("/", on(run_pages.overview)),
            Route("/run/{run:int}/step", on(run_pages.find_step)),
            Route(step, on(run_pages.step_page)),
            Route(step + "/group/{key}", on(run_pages.group_page)),
            Route(step + "/group/{key}/image/{image:int}", on(run_pages.group_image)),
            Route("/run/{run:int}/completions", on(run_pages.completions_page)),
            Route("/run/{run:int}/samples", on(run_pages.samples_page)),
            Route("/run/{run:int}/sample", on(run_pages.sample_page)),
            Route("/evaluations", on(evaluation_pages.evaluations_page)),
            Route(model, on(evaluation_pages.predictions_page)),
            Route(model + "/confusions", on(evaluation_pages.confusions_page)),
            Route(model + "/image/{number:int}/{image:int}", on(evaluation_pages.prediction_image)),
            Route("/api/state", on(state)),
            Route("/api/curves", on(curves)),
            Route("/assets/{name}", asset_file),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
        ],
        exception_handlers={
            BadRequestError: lambda request, error: viewer.error_page(request, 400, str(error)),
            HTTPException: lambda request, error: viewer.error_page(request, error.status_code, error.detail),
        },
    )
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)
    return Guard(app, access)


def state(viewer: Viewer, request: Request) -> Response:
    """How far every run is: pages ask for it to see what is new."""
    return JSONResponse({"runs": [viewer.run_state(run) for run in viewer.index.runs]})


def curves(viewer: Viewer, request: Request) -> Response:
    """The charts of the runs that the address names."""
    return JSONResponse([asdict(chart) for chart in charts(viewer.index, viewer.chosen_runs(request))])


def asset_file(request: Request) -> Response:
    """A style or script of the package; no other file can be asked for."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise HTTPException(404, "there is no such file")
    # its address changes with its content
    return Response(asset(name), media_type=ASSETS[name], headers={"cache-control": "private, max-age=86400"})


def open_socket(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        UserError: The address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"cannot listen on {host}, port {port} ({error}); give another --port (0: any free one) or --host"
        ) from error
    return bound


def serve(
    paths: Sequence[str | Path],
    access: Access,
    port: int,
    image_folders: Sequence[Path],
    announce: Callable[[str, list[Run]], None],
) -> None:
    """Serves until it is interrupted.

    Args:
        paths: Run folders.
        access: Host to listen on, and the token.
        port: 0: any free one.
        image_folders: Further folders whose images may be shown.
        announce: Called with the address and the runs when the server listens.

    Raises:
        UserError: A folder holds nothing to show, or the address is taken.
    """
    import uvicorn

    runs = open_runs(paths)
    with (
        open_socket(access.host, port) as bound,
        tempfile.TemporaryDirectory(prefix="glyphrl-view-") as folder,
    ):
        index = Index(runs, Path(folder))
        viewer = Viewer(index, ImageFinder(runs, image_folders))
        config = uvicorn.Config(
            build_app(viewer, access),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
        )
        bound.listen(128)
        announce(address_of(access, bound.getsockname()[1]), runs)
        thread = index.follow()
        try:
            uvicorn.Server(config).run(sockets=[bound])
        finally:
            index.close()
            thread.join(timeout=5)


def address_of(access: Access, port: int) -> str:
    """What to type into a browser.

    >>> address_of(Access("::1", "t"), 80)
    'http://[::1]:80/?token=t'
    """
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(access.host, access.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + (f"?token={access.token}" if access.token else "")
