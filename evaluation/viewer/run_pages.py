"""Pages of a run's training: curves, a step, a group, completions by filter, a sample followed through training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from glyphrl.evaluation.viewer import queries
from glyphrl.evaluation.viewer.context import Viewer
from glyphrl.evaluation.viewer.curves import charts
from glyphrl.evaluation.viewer.filters import (
    FAULT_CHOICES,
    PER_PAGE,
    SORTS,
    TEXT_FIELDS,
    choice,
    completions_where,
    page_of,
    text_of,
    whole,
)
from glyphrl.evaluation.viewer.log_rows import prompt_and_extras
from glyphrl.evaluation.viewer.marks import SHOWN_RAW, proofread
from glyphrl.evaluation.viewer.queries import Place, images_of, place_of
from glyphrl.evaluation.viewer.runs import Run
from glyphrl.trainers.completions_log import LogKey

WHOLE_RAW = 1_000_000


def overview(viewer: Viewer, request: Request) -> Response:
    """Curves of the chosen runs, overlaid, and how far each run is."""
    chosen = viewer.chosen_runs(request)
    drawn = charts(viewer.index, chosen)
    return viewer.page(
        request,
        "overview.html.j2",
        chosen[0],
        chosen=[run.number for run in chosen],
        charts=[asdict(chart) for chart in drawn],
        names={run.number: run.name for run in viewer.index.runs},
        evaluations={run.number: list(run.evaluations()) for run in viewer.index.runs},
    )


def find_step(viewer: Viewer, request: Request) -> Response:
    """Leads to the logged step nearest to `?step=`, or to the last one."""
    run = viewer.run_of(request)
    step = queries.nearest_step(viewer.index, run.number, whole(request.query_params, "step"))
    if step is None:
        return viewer.page(request, "nothing.html.j2", run, what="completions")
    return RedirectResponse(f"/run/{run.number}/step/{step}", status_code=303)


def step_page(viewer: Viewer, request: Request) -> Response:
    """The groups of a step."""
    run, step = viewer.run_of(request), request.path_params["step"]
    row = _step(viewer, run, step)
    if "open" in request.query_params:  # from a group of another step: on to its counterpart
        place = queries.counterpart(viewer.index, run.number, step, request.query_params["open"])
        return RedirectResponse(_group_path(run, place), status_code=303)
    sort = choice(request.query_params, "sort", queries.GROUP_SORTS, "place")
    page = page_of(request.query_params)
    groups = queries.groups_of_step(viewer.index, run.number, step, sort, page)
    shown = [
        {
            **group,
            "place": place_of(group),
            "pictures": viewer.pictures(
                request,
                run.number,
                images_of(group["images"])[:1],
                _group_path(run, place_of(group)) + "/image",
                True,
            ),
        }
        for group in groups
    ]
    return viewer.page(
        request,
        "step.html.j2",
        run,
        step=row,
        parts=_parts(viewer, run),
        groups=shown,
        sort=sort,
        sorts=queries.GROUP_SORTS,
        page=page,
        pages=-(-row["groups"] // queries.GROUPS_PER_PAGE),
        span=_span(group["rewards"] for group in groups),
    )


def group_page(viewer: Viewer, request: Request) -> Response:
    """A group: image, reference, and its completions by reward."""
    run, place, group = _group(viewer, request)
    before, after, number, count = queries.neighbours(viewer.index, run.number, place)
    earlier, later, times = queries.same_sample(viewer.index, run.number, group)
    prompt, extras = prompt_and_extras(
        run.completions, LogKey(place.step, place.rank, place.chunk), place.grp
    )
    completions = [
        _shown(run, row, _parts(viewer, run)) | {"extras": extras.get(row["idx"], {})}
        for row in queries.completions_of(viewer.index, run.number, place)
    ]
    strongest = max((abs(row["advantage"] or 0.0) for row in completions), default=0.0)
    return viewer.page(
        request,
        "group.html.j2",
        run,
        group=group,
        place=place,
        step=_step(viewer, run, place.step),
        pictures=viewer.pictures(
            request, run.number, images_of(group["images"]), _group_path(run, place) + "/image", False
        ),
        image_count=len(images_of(group["images"])),
        before=before,
        after=after,
        number=number,
        count=count,
        earlier=earlier,
        later=later,
        times=times,
        prompt=prompt,
        completions=completions,
        strongest=strongest or 1.0,
        limit=WHOLE_RAW if request.query_params.get("whole") else SHOWN_RAW,
        span=_span([group["rewards"]]),
    )


def group_image(viewer: Viewer, request: Request) -> Response:
    """An image of a group, by its number."""
    run, _, group = _group(viewer, request)
    return viewer.image_response(
        request, run.number, images_of(group["images"]), request.path_params["image"]
    )


def completions_page(viewer: Viewer, request: Request) -> Response:
    """Completions of all steps that a filter leaves."""
    run = viewer.run_of(request)
    where = completions_where(run.number, request.query_params)
    sort = choice(request.query_params, "sort", SORTS, "-step")
    page = page_of(request.query_params)
    rows, total = queries.find_completions(viewer.index, where, sort, page)
    shown = []
    for row in rows:
        images, base = images_of(row["images"])[:1], _group_path(run, place_of(row)) + "/image"
        pictures = viewer.pictures(request, run.number, images, base, True)
        shown.append(_shown(run, row, _parts(viewer, run)) | {"pictures": pictures})
    return viewer.page(
        request,
        "completions.html.j2",
        run,
        rows=shown,
        total=total,
        words=where.words,
        sort=sort,
        sorts=SORTS,
        faults=FAULT_CHOICES,
        fields=TEXT_FIELDS,
        page=page,
        pages=max(1, -(-total // PER_PAGE)),
    )


def samples_page(viewer: Viewer, request: Request) -> Response:
    """The samples that were practised."""
    run, page = viewer.run_of(request), page_of(request.query_params)
    rows, total = queries.often_sampled(viewer.index, run.number, text_of(request.query_params, "text"), page)
    for row in rows:
        base = _group_path(run, place_of(row)) + "/image"
        row["pictures"] = viewer.pictures(request, run.number, images_of(row["images"])[:1], base, True)
    return viewer.page(
        request,
        "samples.html.j2",
        run,
        rows=rows,
        total=total,
        page=page,
        pages=max(1, -(-total // PER_PAGE)),
    )


def sample_page(viewer: Viewer, request: Request) -> Response:
    """One sample, followed through training."""
    run, sample = viewer.run_of(request), text_of(request.query_params, "id")
    groups = queries.sample_groups(viewer.index, run.number, sample)
    if not groups:
        raise HTTPException(404, f"The log of {run.name} holds no sample with the id {sample!r}.")
    first = groups[0]
    answers: dict[Place, list[dict[str, Any]]] = {}
    for row in queries.sample_answers(viewer.index, run.number, sample):
        row["reading"] = proofread(first["solution"], row["answer"], run.settings)
        answers.setdefault(place_of(row), []).append(row)
    shown = groups[-queries.OCCURRENCES :]
    base = _group_path(run, place_of(first)) + "/image"
    return viewer.page(
        request,
        "sample.html.j2",
        run,
        sample=sample,
        first=first,
        groups=[{**group, "place": place_of(group), "answers": answers[place_of(group)]} for group in shown],
        hidden=len(groups) - len(shown),
        pictures=viewer.pictures(request, run.number, images_of(first["images"]), base, False),
        span=_span(group["rewards"] for group in shown),
    )


def _step(viewer: Viewer, run: Run, step: int) -> dict[str, Any]:
    row = queries.step_row(viewer.index, run.number, step)
    if row is None:
        raise HTTPException(404, f"Step {step} of {run.name} is not in its log.")
    return row


def _group(viewer: Viewer, request: Request) -> tuple[Run, Place, dict[str, Any]]:
    """Run, place and row of the group of an address."""
    run = viewer.run_of(request)
    place = Place.parse(request.path_params["step"], request.path_params["key"])
    row = queries.group_row(viewer.index, run.number, place) if place else None
    if place is None or row is None:
        raise HTTPException(
            404, f"There is no such group in step {request.path_params['step']} of {run.name}."
        )
    return run, place, row


def _group_path(run: Run, place: Place) -> str:
    return f"/run/{run.number}/step/{place.step}/group/{place.key}"


def _parts(viewer: Viewer, run: Run) -> list[tuple[str, str]]:
    """The run's parts of the reward: (column, name)."""
    return [(viewer.index.part_columns[name], name) for name in viewer.index.states[run.number].parts]


def _shown(run: Run, row: dict[str, Any], parts: list[tuple[str, str]]) -> dict[str, Any]:
    """A completion with its marks and the parts of its reward."""
    return {
        **row,
        "place": place_of(row),
        "reading": proofread(row["solution"], row["answer"], run.settings),
        "parts": [(name, row[column]) for column, name in parts],
    }


def _span(rewards: Any) -> tuple[float, float]:
    """Lower and upper end of a scale that holds all rewards, and 0 to 1."""
    values = [0.0, 1.0, *(value for group in rewards for value in group if value is not None)]
    return min(values), max(values)
