"""The page in a real browser: a sentence is typed, its clip comes first, is played, captioned and asked about.

STOA_SCREENSHOTS names a folder to keep pictures in, STOA_BROWSER_MODEL a model in the place of the one that comes with
the package.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stoa.cli import main
from stoa.shipped import SMALL
from stoa.tasks.export import is_exported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLIP = 1  # of the data set below, whose caption differs from the others in all of its words
QUESTION = "what does the diamond do?"
# An answer takes a model, on a machine that may do other things as well.
WAIT_MS = 240_000


@pytest.fixture(scope="module")
def model() -> str:
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    named = os.environ.get("STOA_BROWSER_MODEL") or ("small" if is_exported(SMALL) else "")
    if not named:
        pytest.skip("needs a trained model: STOA_BROWSER_MODEL=runs/demo")
    return named


@pytest.fixture(scope="module")
def videos(model, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    counts = ["--num_train", "0", "--num_val", "0", "--num_test", "12", "--num_galleries", "0", "--seed", "7"]
    assert main(["synth", "--out", str(root), *counts]) == 0
    folder = root / "videos" / "test"
    boxes = str(root / "detections" / "test")
    assert main(["index", str(folder), "--model", model, "--detections", boxes]) == 0
    return root


@pytest.fixture(scope="module")
def address(model, videos):
    command = [sys.executable, "-m", "stoa.cli", "serve", "--index", str(videos / "videos" / "test"), "--port", "0"]
    command += ["--work_seconds", "600"]
    server = subprocess.Popen([*command, "--model", model], stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    assert " searches 12 windows of 12 videos" in line
    yield line.split()[0]
    server.terminate()
    assert server.communicate(timeout=280)[0] == "ended\n"
    assert server.returncode == 0


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, address):
    """A page of some kind of screen. Whatever it asks of another host, or complains of, fails the test."""
    faults, contexts = [], []

    def open_page(**screen):
        contexts.append(chromium.new_context(**screen))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: is_ours(request.url) or faults.append(f"asks for {request.url}"))
        page.on("console", lambda told: told.type in ("error", "warning") and faults.append(told.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        return page

    def is_ours(url: str) -> bool:
        return url.startswith((f"{address}/", f"blob:{address}/"))

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def shoot(page, name: str) -> None:
    folder = os.environ.get("STOA_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


def until(page, expression: str) -> None:
    """Wait until it is true. Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    ends = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < ends, expression
        page.wait_for_timeout(50)


def caption_of(videos: Path, clip: int) -> str:
    rows = [json.loads(line) for line in (videos / "manifest.jsonl").read_text().splitlines()]
    return rows[clip]["captions"][0]["text"]


def show_all(page) -> None:
    """Hits that are not sure are folded away."""
    page.wait_for_selector(".hit", state="attached")
    if page.locator("details.others:not([open])").count():
        page.locator("details.others > summary").first.click()


SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}


@pytest.mark.parametrize("screen", SCREENS)
def test_a_sentence_finds_its_clip_which_is_played_captioned_and_asked_about(opened, address, videos, screen):
    page = opened(**SCREENS[screen])
    page.goto(address)
    assert page.evaluate("document.activeElement.id") == "q"
    shoot(page, f"{screen}-start")
    page.keyboard.type(caption_of(videos, CLIP))
    page.keyboard.press("Enter")
    show_all(page)
    hit = page.locator(".hit").first
    assert hit.locator(".name").inner_text() == f"test_{CLIP:06d}.mp4"
    until(page, "document.querySelector('.hit video').readyState >= 2")
    shoot(page, f"{screen}-hits")

    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    until(page, "document.querySelector('.hit video').currentTime > 0.2")
    played = page.evaluate(
        "(({currentTime, error, paused, videoWidth}) => ({currentTime, error, paused, videoWidth}))"
        "(document.querySelector('.hit video'))"
    )
    assert not played["paused"] and played["error"] is None and played["videoWidth"] > 0
    start, end = (float(hit.get_attribute(f"data-{name}")) for name in ("start", "end"))
    assert start <= played["currentTime"] <= end
    page.keyboard.press(" ")
    if not page.evaluate("document.querySelector('.hit video').paused"):  # it was about to begin anew
        page.keyboard.press(" ")
    assert page.evaluate("document.querySelector('.hit video').paused")

    page.keyboard.press("c")
    said = hit.locator(".said .caption")
    said.wait_for()
    assert len(said.inner_text().split()) > 3
    page.keyboard.press("a")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    answer = hit.locator(".said .answer")
    answer.wait_for()
    asked, answered = answer.inner_text().split("\n")
    assert asked == QUESTION and answered
    page.keyboard.press("Escape")
    shoot(page, f"{screen}-asked")
    if hit.locator("[data-do=explain]").count():
        page.keyboard.press("e")
        until(page, "document.querySelector('.explained img')?.naturalWidth > 100")
        hit.locator(".explained").scroll_into_view_if_needed()
        shoot(page, f"{screen}-explained")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.keyboard.press("e")
        assert hit.locator(".explained").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_window_is_played_again_and_again(opened, address, videos):
    page = opened(**SCREENS["desktop"])
    page.goto(f"{address}/?q=anything")
    show_all(page)
    page.evaluate(
        """() => {
          const video = document.querySelector('.hit video'), hit = video.closest('.hit');
          hit.dataset.start = 0.5; hit.dataset.end = 1.0;  // a window within the video
          window.times = [];
          video.addEventListener('timeupdate', () => times.push(video.currentTime));
          hit.focus();
        }"""
    )
    page.keyboard.press(" ")
    # Twice back to the start, and never far beyond the end.
    until(page, "times.filter((time, n) => n && time < times[n - 1] - 0.2).length >= 2")
    assert page.evaluate("Math.max(...times)") < 1.6 and page.evaluate("Math.min(...times)") >= 0.0


def test_keys_move_between_hits_and_show_themselves(opened, address):
    page = opened(**SCREENS["desktop"])
    page.goto(f"{address}/?q=a+red+square")
    show_all(page)
    number = "document.activeElement.dataset.number"
    numbers = page.evaluate("[...document.querySelectorAll('.hit')].map((hit) => hit.dataset.number)")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
        seen.append(numbers.index(page.evaluate(number)))
    assert seen == [0, 1, 2, 1, 0, 0]
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    shoot(page, "desktop-keys")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_a_picture_is_searched_by(opened, address, videos, tmp_path):
    import av

    with av.open(str(videos / "videos" / "test" / f"test_{CLIP:06d}.mp4")) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "frame.png")
    (tmp_path / "junk.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    page = opened(**SCREENS["desktop"])
    page.goto(address)
    page.set_input_files("#picture", tmp_path / "frame.png")
    page.wait_for_selector(".hit")
    assert page.locator(".hit").count() == 6 and page.locator("#like-name").inner_text() == "frame.png"
    until(page, "document.querySelector('#like-picture').naturalWidth > 0")
    shoot(page, "desktop-picture")


def test_a_picture_that_is_none_is_told(chromium, address, tmp_path):
    (tmp_path / "junk.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    context = chromium.new_context()
    page = context.new_page()
    page.goto(address)
    page.set_input_files("#picture", tmp_path / "junk.png")
    page.wait_for_selector("#problem:not([hidden])", timeout=WAIT_MS)
    assert page.locator("#problem").inner_text().startswith("This cannot be read: ")
    shoot(page, "desktop-problem")
    context.close()


def test_without_script_a_search_is_a_form(opened, address, videos):
    page = opened(**SCREENS["desktop"], java_script_enabled=False)
    page.goto(address)
    page.fill("#q", caption_of(videos, CLIP))
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit", state="attached")
    assert page.locator(".hit .name").first.text_content() == f"test_{CLIP:06d}.mp4"
    assert not page.locator(".needs-js >> visible=true").count()
    shoot(page, "desktop-no-script")
