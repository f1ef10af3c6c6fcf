"""A job that scores videos, or first makes them by a model for the held-out people of a dataset."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from emo_core.checkpoint import at_hand
from emo_core.evaluation.extractors import Setup, checked
from emo_core.evaluation.pairs import find_pairs
from emo_core.evaluation.run import HandsOf, alone, evaluate
from emo_core.evaluation.table import markdown
from emo_core.evaluation.write import check_out, write_report
from emo_core.inference.generate import Request, generate, load_pipeline
from emo_core.inference.sampling import Sampling
from emo_data.cores import cores
from emo_data.dataset.testset import BATCH, MANIFEST, write_testset
from emo_data.errors import UserError
from emo_data.objects import Folder, stamp
from emo_data.whole import whole_file
from flows.forms.evaluate import EvaluateForm
from flows.forms.where import Where
from flows.told import Told
from flows.work import ray_address
from flows.work.pictures import sheet, shrunk

_MADE = "made.json"
_DECIDES = {"model", "data", "clips", "seconds", "steps", "seed"}


def work(given: dict[str, Any], where: Where, told: Told) -> dict[str, Any]:
    """See `flows.work.do`."""
    form = EvaluateForm.model_validate(given)
    with workplace(form.out) as out:
        return _evaluated(form, where, told, out)


def _evaluated(form: EvaluateForm, where: Where, told: Told, out: Path) -> dict[str, Any]:
    check_out(out / "report.json")
    found = None if form.device == "cpu" else torch.accelerator.current_accelerator(True)
    device = found or torch.device("cpu")
    setup = Setup(checked(form.metrics), form.weights, str(device))
    if form.model is None:
        generated, truth = Path(str(form.generated)), None if form.truth is None else Path(form.truth)
    else:
        generated, truth = _made(form, form.model, out, device, told)
    pairs = find_pairs(generated, truth)
    hands: HandsOf = alone
    on_this_disk = form.model is not None and "://" in form.out  # of that copy other machines know nothing
    if form.workers != 0 and not on_this_disk:
        from emo_core.evaluation.on_ray import ray_hands

        hands = ray_hands(form.workers or cores(), ray_address(where))
    with told.phase("evaluate") as report:
        scored = evaluate(pairs, setup, hands, report)
    title = f"{generated.name} against {truth.name if truth else 'its truth'}"
    files = write_report(scored, out / "report.json", title)
    told.page("report", markdown(scored, title))
    for file in files:
        if file.suffix == ".png":
            told.picture(file.name.split(".")[-2], partial(shrunk, file))
    for clip in scored.troubled:
        print(f"problem: {clip.name}: {'; '.join(clip.problems)}", flush=True)
    told.count(clips=len(pairs), problems=len(scored.troubled))
    return {
        "report": f"{form.out.rstrip('/')}/report.json",
        "metrics": scored.metrics,
        "problems": len(scored.troubled),
    }


@contextmanager
def workplace(url: str) -> Iterator[Path]:
    """A folder, made where it is not. Of one in a store it is a copy, and the store gets what has changed, however the
    block ends; who is killed in it loses what it has changed."""
    if "://" not in url:
        Path(url).mkdir(parents=True, exist_ok=True)
        yield Path(url)
        return
    with at_hand(url) as copy:
        before = _stamps(copy)
        try:
            yield copy
        finally:
            now = _stamps(copy)
            for name, changed in now.items():
                if before.get(name) != changed:
                    Folder(url).put(name, copy / name)
            Folder(url).delete([name for name in before if name not in now])


def _stamps(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): stamp(str(path)) for path in files}


def _made(form: EvaluateForm, model: str, out: Path, device: torch.device, told: Told) -> tuple[Path, Path]:
    """(videos of the model, truth). What an earlier try made from the same is kept."""
    _same_as_before(out / _MADE, form.model_dump(include=_DECIDES))
    testset, videos = out / "testset", out / "generated"
    if not testset.exists():
        with told.phase("testset") as report:
            write_testset(str(form.data), testset, form.clips, form.seconds, form.seed, [], report)
    videos.mkdir(exist_ok=True)
    with (testset / BATCH).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    left = [row for row in rows if not (videos / f"{row['name']}.mp4").exists()]
    loaded = load_pipeline(model, device) if left else None
    sampling = Sampling(steps=form.steps, seed=form.seed, scheduler="dpm++")
    with told.phase("generate") as report:
        for number, row in enumerate(left, start=len(rows) - len(left)):
            report(number, len(rows), row["name"])
            video = videos / f"{row['name']}.mp4"
            asked = Request(testset / row["portrait"], testset / row["audio"], video, sampling=sampling, resume=True)
            assert loaded is not None
            generate(loaded, asked)
            told.picture("preview", partial(sheet, video), every=30)
    return videos, testset / MANIFEST


def _same_as_before(record: Path, made_from: dict[str, Any]) -> None:
    if record.exists():
        if json.loads(record.read_text()) != made_from:
            raise UserError(f"{record.parent}: holds the videos of another evaluation; name another folder")
        return
    with whole_file(record) as unfinished:
        unfinished.write_text(json.dumps(made_from))
