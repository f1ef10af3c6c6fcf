"""Prefect's page as a person sees it, in a real browser. EMO_SCREENSHOTS=docs renews the pictures of the docs."""

import os
import re
from pathlib import Path

import pytest

from flows.forms.train import TrainForm
from flows.forms.where import Where
from flows.notes import Notes
from tests.browser import CHROMIUM, FLAGS, PATIENCE, expect, needs_chromium, playwright

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield opened
        browser.close()


PICTURES = os.environ.get("EMO_SCREENSHOTS")


def keep(page, name, height=900):
    """A picture of the page's top for the docs, where somebody wants new ones."""
    if PICTURES:
        page.set_viewport_size({"width": 1200, "height": height})
        page.mouse.move(1199, height - 1)  # off what would light up
        page.wait_for_timeout(1500)  # for what moves on the page
        page.screenshot(path=Path(PICTURES) / f"flows-{name}.png")


def test_the_form_shows_every_parameter_with_its_help(served, page):
    page.goto(f"{served.page}/deployments/deployment/{served.deployments['train']}/run")
    for form in (TrainForm, Where):
        for field in form.model_fields.values():
            title = re.compile(rf"^\s*{re.escape(field.title)}( \(Optional\))?\s*$")
            expect(page.get_by_text(title).first).to_be_visible()
            expect(page.get_by_text(field.description).first).to_be_visible()
    keep(page, "form")


def test_the_page_of_a_run_shows_how_far_it_is(served, page, data):
    form = {"stage": 1, "data": data, "out": "runs/stage1", "device": "cpu"}
    run = served.start("train", form)
    job = f"emo-train-{run}"
    served.until(lambda: (now := Notes(served.jobs, job).progress()) and now.done > 10, 600)
    served.until(lambda: {"train-progress", "train-loss"} <= set(served.artifacts(run)), 120)
    if PICTURES:  # of a run that has come some way
        served.until(lambda: served.logs(run).count("stage 1: ") > 2, 600)
    page.goto(f"{served.page}/runs/flow-run/{run}")
    expect(page.get_by_text(f"{job}: Python").first).to_be_visible()
    keep(page, "run", 1050)
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    expect(page.get_by_text("train-progress").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"stage 1: \d+ of 1300")).first).to_be_visible()
    keep(page, "artifacts", 1150)
    loss = served.artifacts(run)["train-loss"]["id"]
    page.goto(f"{served.page}/artifacts/artifact/{loss}")
    picture = page.locator("img[src^='data:image/png']").first
    expect(picture).to_be_visible()
    assert picture.evaluate("img => img.naturalWidth") > 300
    keep(page, "loss", 580)
    served.cancel(run)
