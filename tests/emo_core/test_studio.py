"""The studio as a person uses it: a real browser, the real service, the smallest model."""

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from emo_core.serving.api import create_app
from emo_core.serving.service import Limits, Service
from tests.browser import CHROMIUM, FLAGS, PATIENCE, expect, needs_chromium, playwright
from tests.emo_core.test_service import Here

pytestmark = needs_chromium
LIMITS = Limits(queue=3, sound_seconds=10)


class Hands(Here):
    """Remember what they were asked for."""

    def __init__(self, models) -> None:
        super().__init__(models)
        self.wishes = []

    def look(self, folder, wish):
        self.wishes.append(wish)
        return super().look(folder, wish)

    def make(self, folder, wish):
        self.wishes.append(wish)
        return super().make(folder, wish)


class Gate:
    """In the place of `Here.hold`: lets so many reports of progress pass, then none until it is set."""

    def __init__(self, passing: int) -> None:
        self._passing, self._open = passing, threading.Event()

    def set(self) -> None:
        self._open.set()

    def is_set(self) -> bool:
        return True

    def wait(self) -> None:
        self._passing -= 1
        if self._passing < 0:
            self._open.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def hands(model_folder):
    torch.set_num_threads(1)
    return Hands({"small": str(model_folder / "model")})


@contextmanager
def serving(folder, hands, token=None, limits=LIMITS, kind=Service) -> Iterator[str]:
    """The address of a service, which lives on a thread."""
    begun, over = threading.Event(), {}

    async def work(door: socket.socket) -> None:
        service = kind(folder, hands.models, hands, limits)
        config = uvicorn.Config(create_app(service, token), log_level="warning", timeout_graceful_shutdown=1)
        over["server"] = uvicorn.Server(config)
        begun.set()
        await over["server"].serve(sockets=[door])
        hands.hold.set()
        await service.close()

    with socket.create_server(("127.0.0.1", 0)) as door, ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, work(door))
        done.add_done_callback(lambda _: begun.set())
        begun.wait()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            if "server" in over:
                over["server"].should_exit = True
            done.result()


@contextmanager
def visiting(browser, address, **how):
    """The page in a new browser, which asks nobody but the service and breaks none of its rules."""
    context = browser.new_context(**how)
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page = context.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
    try:
        page.goto(address)
        yield page
        assert faults == []
        assert [url for url in asked if not url.startswith((f"{address}/", f"blob:{address}/", "data:"))] == []
    finally:
        context.close()


def give(page, model_folder, portrait=None):
    """The inputs, one's word, and a wish that takes no time."""
    page.set_input_files("#portrait", portrait or model_folder / "portrait.png")
    page.set_input_files("#sound", model_folder / "voice.wav")
    expect(page.locator("#region")).to_be_visible()
    page.get_by_text("More options").click()
    page.get_by_label("Steps").fill("1")
    page.get_by_label("Guidance").fill("1")
    page.check("#consent")


def corners(page, element="#region"):
    """x0, y0, x1, y1 in 0-1 of the framed picture."""
    frame, box = (page.locator(name).bounding_box() for name in ("#frame", element))
    x, y = box["x"] - frame["x"], box["y"] - frame["y"]
    return np.array([x, y, x + box["width"], y + box["height"]]) / frame["width"]


def plays(page):
    """Pictures are on the screen, and go on: sound alone lets the time run, too."""
    page.wait_for_function("() => document.getElementById('screen').readyState >= 2")
    page.wait_for_function("() => document.getElementById('screen').currentTime > 0.3")
    page.wait_for_function("() => document.getElementById('screen').getVideoPlaybackQuality().totalVideoFrames > 8")


def test_from_the_upload_to_the_video(browser, hands, model_folder, tmp_path):
    """Watched while it is made, downloaded when it is done, and found again after a reload."""
    hands.hold = Gate(14)  # of 17 clips
    with serving(tmp_path, hands) as address, visiting(browser, address) as page:
        make = page.get_by_role("button", name="Make the video")
        expect(make).to_be_disabled()
        expect(page.locator("#needed")).to_contain_text("a portrait, a voice, your word")
        give(page, model_folder)
        expect(page.locator("#needed")).to_be_empty()
        x0, y0, x1, y1 = corners(page, "#face")
        assert 0 < x0 < x1 < 1 and 0 < y0 < y1 < 1 and (corners(page)[:2] < (x0, y0)).all()

        before = corners(page)
        drag(page, "#region b[data-moves='2 3']", -0.05, -0.1)
        assert corners(page) - before == pytest.approx([0, 0, -0.05, -0.1], abs=0.01)
        expect(page.get_by_role("button", name="automatic")).to_have_attribute("aria-pressed", "false")
        page.locator("#region").focus()
        page.keyboard.press("Shift+ArrowUp")
        wanted = corners(page)
        page.get_by_text("lively").click()
        make.click()
        expect(page.locator("#state")).to_have_text("Being made")
        expect(page.locator("#count")).to_contain_text("of 50 frames")
        plays(page)
        expect(page.locator("#state")).to_have_text("Being made")
        hands.hold.set()
        expect(page.locator("#state")).to_have_text("Done")
        with page.expect_download() as got:
            page.get_by_role("link", name="Download").click()
        (job,) = hands.made
        assert got.value.suggested_filename == "voice.mp4"
        assert got.value.path().read_bytes() == (tmp_path / "jobs" / job / "video.mp4").read_bytes()
        wish = hands.wishes[-1]
        assert (wish.speed, wish.steps, wish.guidance) == ("lively", 1, 1)
        assert [float(share) for share in wish.region.split(",")] == pytest.approx(wanted, abs=0.01)

        page.reload()
        expect(page.locator("#state")).to_have_text("Done")
        expect(page.locator("#jobs button")).to_have_count(1)
        expect(page.get_by_role("link", name="Download")).to_be_visible()
        page.evaluate("() => document.getElementById('screen').play()")
        plays(page)


def drag(page, handle, dx, dy):
    """A handle by so much of the framed picture's side, with the mouse."""
    page.locator("#frame").scroll_into_view_if_needed()
    x, y, side = middle(page, handle)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx * side, y + dy * side, steps=5)
    page.mouse.up()


def middle(page, handle):
    """Of a handle, and the side of the framed picture, in the page's pixels."""
    box, frame = (page.locator(name).bounding_box() for name in (handle, "#frame"))
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, frame["width"]


class Interrupted(Service):
    """Hangs up on the first who watches."""

    hung_up = False

    async def watch(self, job):
        async for piece in super().watch(job):
            if not self.hung_up:
                yield piece[:2000]  # its tables, and a part of the first picture
                self.hung_up = True
                raise ConnectionError
            yield piece


def test_a_preview_that_breaks_off_goes_on(browser, hands, model_folder, tmp_path):
    hands.hold = Gate(14)
    with serving(tmp_path, hands, kind=Interrupted) as address, visiting(browser, address) as page:
        give(page, model_folder)
        page.get_by_role("button", name="Make the video").click()
        plays(page)
        expect(page.locator("#state")).to_have_text("Being made")
        hands.hold.set()
        expect(page.locator("#state")).to_have_text("Done")


def test_files_are_dropped_anywhere(browser, hands, model_folder, tmp_path):
    with serving(tmp_path, hands) as address, visiting(browser, address) as page:
        for name, kind in (("portrait.png", "image/png"), ("voice.wav", "audio/wav")):
            dropped = page.evaluate_handle(
                """([name, type, bytes]) => {
                    const dropped = new DataTransfer();
                    dropped.items.add(new File([new Uint8Array(bytes)], name, { type }));
                    return dropped;
                }""",
                [name, kind, list((model_folder / name).read_bytes())],
            )
            page.dispatch_event("#stage", "drop", {"dataTransfer": dropped})
        expect(page.locator("#region")).to_be_visible()
        expect(page.locator("#sound-name")).to_have_text("voice.wav")


def test_a_cancelled_job_stays_in_the_list(browser, hands, model_folder, tmp_path):
    hands.hold.clear()
    with serving(tmp_path, hands) as address, visiting(browser, address) as page:
        give(page, model_folder)
        page.get_by_role("button", name="Make the video").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#state")).to_have_text("Cancelled")
        expect(page.locator("#jobs")).to_contain_text("Cancelled")
        hands.hold.set()
        page.get_by_role("button", name="Make the video").click()
        expect(page.locator("#state")).to_have_text("Done")
        expect(page.locator("#jobs button")).to_have_count(2)
        page.locator("#jobs button").last.click()
        expect(page.locator("#state")).to_have_text("Cancelled")
        assert len(hands.made) == 1


def test_running_jobs_are_found_again(browser, hands, model_folder, tmp_path):
    """Also the one that is not on the stage ends in the list."""
    hands.hold.clear()
    with serving(tmp_path, hands) as address, visiting(browser, address) as page:
        give(page, model_folder)
        for count in (1, 2):
            page.get_by_role("button", name="Make the video").click()
            expect(page.locator("#jobs button")).to_have_count(count)
        page.reload()
        expect(page.locator("#jobs button")).to_have_count(2)
        expect(page.locator("#state")).to_have_text("Waiting for its turn")
        hands.hold.set()
        expect(page.locator("#jobs small")).to_have_text(["Done", "Done"])


def test_what_is_wrong_is_said_and_mended(browser, hands, model_folder, tmp_path):
    broken, silent = tmp_path / "broken.png", tmp_path / "silent.wav"
    broken.write_bytes(b"no picture")
    silent.write_bytes(b"no sound")
    with serving(tmp_path / "service", hands) as address, visiting(browser, address) as page:
        page.set_input_files("#portrait", broken)
        expect(page.locator("#portrait-problem")).to_contain_text("portrait: cannot be read as a picture")
        expect(page.get_by_role("button", name="Make the video")).to_be_disabled()
        give(page, model_folder)
        expect(page.locator("#portrait-problem")).to_be_empty()
        page.set_input_files("#sound", silent)
        page.get_by_role("button", name="Make the video").click()
        expect(page.locator("#problem")).to_contain_text("audio: cannot be used as sound")
        page.set_input_files("#sound", model_folder / "voice.wav")
        page.get_by_role("button", name="Make the video").click()
        expect(page.locator("#state")).to_have_text("Done")
        expect(page.locator("#problem")).to_be_empty()


def test_of_several_faces_one_is_chosen(browser, hands, model_folder, tmp_path):
    one = np.asarray(Image.open(model_folder / "portrait.png").convert("RGB"))
    Image.fromarray(np.hstack([one, one])).save(tmp_path / "two.png")
    with serving(tmp_path / "service", hands) as address, visiting(browser, address) as page:
        page.set_input_files("#portrait", tmp_path / "two.png")
        expect(page.get_by_role("radio", name=re.compile("from the left"))).to_have_count(2)
        expect(page.locator("#region")).to_be_hidden()
        page.locator("#face-choice span").nth(1).click()
        expect(page.locator("#region")).to_be_visible()
        assert [wish.face for wish in hands.wishes] == [None, 2]
        expect(page.get_by_role("radio", name="face 2 from the left")).to_be_checked()


def test_when_all_is_full_it_asks_again(browser, hands, model_folder, tmp_path):
    hands.hold.clear()
    limits = LIMITS.model_copy(update={"queue": 1})
    with serving(tmp_path, hands, limits=limits) as address, visiting(browser, address) as page:
        give(page, model_folder)
        page.get_by_role("button", name="Make the video").click()
        expect(page.locator("#jobs button")).to_have_count(1)
        page.get_by_role("button", name="Make the video").click()
        expect(page.locator("#needed")).to_contain_text("The service is full. Asking again in")
        expect(page.get_by_role("button", name="Stop asking")).to_be_visible()
        hands.hold.set()
        expect(page.locator("#jobs button")).to_have_count(2)
        expect(page.locator("#jobs small")).to_have_text(["Done", "Done"])


def test_a_token_is_asked_for_and_kept(browser, hands, tmp_path):
    with serving(tmp_path, hands, token="secret") as address, visiting(browser, address) as page:
        field = page.get_by_label("This service asks for a token")
        field.fill("another")
        field.press("Enter")
        expect(page.locator("#door-problem")).to_have_text("The service does not know this token.")
        field.fill("secret")
        field.press("Enter")
        expect(field).to_be_hidden()
        page.get_by_role("button", name="Use the samples").click()
        expect(page.locator("#region")).to_be_visible()
        expect(page.locator("#sound-name")).to_have_text("voice.wav")
        page.reload()
        page.get_by_role("button", name="Use the samples").click()
        expect(page.locator("#region")).to_be_visible()
        expect(field).to_be_hidden()


def test_it_fits_a_phone_and_a_finger(browser, hands, model_folder, tmp_path):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with serving(tmp_path, hands) as address, visiting(browser, address, **phone) as page:
        give(page, model_folder)
        page.locator("#frame").scroll_into_view_if_needed()
        before, scrolled = corners(page), page.evaluate("() => scrollY")
        x, y, side = middle(page, "#region b[data-moves='0 1']")
        finger = page.context.new_cdp_session(page)
        for kind, dx in (("touchStart", 0), ("touchMove", 0.05), ("touchMove", 0.1), ("touchEnd", None)):
            points = [] if dx is None else [{"x": x + dx * side, "y": y + dx * side}]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert corners(page) - before == pytest.approx([0.1, 0.1, 0, 0], abs=0.01)
        assert page.evaluate("() => scrollY") == scrolled
        page.get_by_role("button", name="Make the video").click()
        expect(page.locator("#state")).to_have_text("Done")
        assert page.evaluate("() => document.scrollingElement.scrollWidth") == 360
