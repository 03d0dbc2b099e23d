"""Pages of evaluations: all models, the predictions of one beside those of another, confused characters."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from glyphrl.evaluation.summary import stage_label
from glyphrl.evaluation.viewer import reading
from glyphrl.evaluation.viewer.context import Viewer
from glyphrl.evaluation.viewer.filters import (
    OUTCOMES,
    PER_PAGE,
    PREDICTION_SORTS,
    BadRequestError,
    choice,
    page_of,
    predictions_where,
)
from glyphrl.evaluation.viewer.marks import proofread
from glyphrl.evaluation.viewer.pages import url_quoted
from glyphrl.evaluation.viewer.predictions import evaluation_settings
from glyphrl.evaluation.viewer.queries import images_of
from glyphrl.evaluation.viewer.reading import Model
from glyphrl.evaluation.viewer.runs import Run, Settings


def evaluations_page(viewer: Viewer, request: Request) -> Response:
    """Every evaluation of every run."""
    found = reading.totals(viewer.index)
    rows = [{**found[model], "key": model, "label": _label(viewer, model)} for model in _models(viewer)]
    return viewer.page(request, "evaluations.html.j2", viewer.index.runs[0], rows=rows)


def predictions_page(viewer: Viewer, request: Request) -> Response:
    """The predictions of a model, beside those of another."""
    run, model = _model(viewer, request)
    other = _other(viewer, request, model)
    where = predictions_where(run.number, model.name, request.query_params, other is not None)
    sort = choice(request.query_params, "sort", PREDICTION_SORTS, "worst")
    if sort in ("improved", "declined") and other is None:
        raise BadRequestError(
            f"sort: {PREDICTION_SORTS[sort][0]!r} needs another model; choose one beside it"
        )
    page = page_of(request.query_params)
    rows, counts = reading.find_predictions(viewer.index, where, other, sort, page)
    settings = _settings(run, model)
    for row in rows:
        base = f"{_path(model)}/image/{row['number']}"
        row["pictures"] = viewer.pictures(request, run.number, images_of(row["images"]), base, True)
        row["reading"] = proofread(row["solution"], row["answer"], settings)
        missing = row["other_similarity"] is None
        row["other_reading"] = None if missing else proofread(row["solution"], row["other_answer"], settings)
    totals = reading.totals(viewer.index)
    return viewer.page(
        request,
        "predictions.html.j2",
        run,
        model=model,
        other=other,
        labels={one: _label(viewer, one) for one in _models(viewer)},
        models=_models(viewer),
        total=totals[model],
        other_total=totals.get(other) if other else None,
        rows=rows,
        counts=counts,
        words=where.words,
        outcomes=OUTCOMES,
        sorts=PREDICTION_SORTS,
        sort=sort,
        page=page,
        pages=max(1, -(-counts["total"] // PER_PAGE)),
        important=settings.important,
    )


def confusions_page(viewer: Viewer, request: Request) -> Response:
    """Which characters a model reads as which others; every count leads to its samples."""
    run, model = _model(viewer, request)
    return viewer.page(
        request,
        "confusions.html.j2",
        run,
        model=model,
        models=_models(viewer),
        labels={one: _label(viewer, one) for one in _models(viewer)},
        matrix=reading.confusion_matrix(viewer.index, model),
    )


def prediction_image(viewer: Viewer, request: Request) -> Response:
    """An image of a prediction, by its number."""
    run, model = _model(viewer, request)
    row = reading.prediction_row(viewer.index, model, min(request.path_params["number"], 2**31 - 1))
    if row is None:
        raise HTTPException(404, "There is no such prediction.")
    return viewer.image_response(request, run.number, images_of(row["images"]), request.path_params["image"])


def _models(viewer: Viewer) -> list[Model]:
    """All evaluations that could be read, in the order of runs and stages."""
    states = viewer.index.states
    return [
        Model(run.number, name)
        for run in viewer.index.runs
        for name in run.evaluations()
        if name in states[run.number].evaluations and f"eval/{name}" not in states[run.number].broken
    ]


def _model(viewer: Viewer, request: Request) -> tuple[Run, Model]:
    run = viewer.run_of(request)
    model = Model(run.number, request.path_params["model"])
    if model not in _models(viewer):
        raise HTTPException(404, f"{run.name} has no evaluation {model.name!r} that can be read.")
    return run, model


def _other(viewer: Viewer, request: Request, model: Model) -> Model | None:
    """The model beside it: `?against=RUN:NAME`, `none`, or the run's model before it."""
    given: str = request.query_params.get("against", "")
    models = _models(viewer)
    if given == "none":
        return None
    if given:
        number, _, name = given.partition(":")
        found = [one for one in models if str(one.run) == number and one.name == name and one != model]
        if not found:
            raise BadRequestError(f"against: expected RUN:MODEL of another evaluation, found {given[:40]!r}")
        return found[0]
    mine = [one for one in models if one.run == model.run]
    place = mine.index(model)
    return mine[place - 1] if place else None


def _label(viewer: Viewer, model: Model) -> str:
    """How a model is called: with its run where there are several."""
    name = stage_label(model.name)
    return f"{viewer.index.runs[model.run].name}: {name}" if len(viewer.index.runs) > 1 else name


def _settings(run: Run, model: Model) -> Settings:
    return evaluation_settings(run.evaluations().get(model.name, run.path), run.settings)


def _path(model: Model) -> str:
    return f"/run/{model.run}/evaluation/{url_quoted(model.name)}"
