"""`emo weights` against a hub on loopback, which speaks as much of the hub's protocol as its client asks for."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows import weights
from flows.weights import PARTS, check

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LINES = {"config.json": 3, "preprocessor_config.json": 3}
FILES = {
    f"{part.repository}/{part.folder}{file}": f"{part.name} {file} ".encode() * LINES.get(file, 600_000)
    for part in PARTS
    for file in part.files
}


class Hub(ThreadingHTTPServer):
    """broken_at: bytes after which the answer to a large file breaks off; spoil: a byte of each large file differs."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.broken_at = None
        self.spoil = False
        self.asked = []


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send):
        hub = self.server
        path = re.sub(r"/resolve/[^/]+", "", self.path).strip("/")
        content = FILES.get(path)
        if content is None:
            self.send_error(404)
            return
        large = path.endswith(".safetensors")
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        start = int(re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", "bytes=0-"))[1])
        hub.asked.append((self.command, path, start))
        body = content[:-1] + b"?" if large and hub.spoil else content
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest() if large else blob}"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if send:
            breaks = large and hub.broken_at is not None
            self.wfile.write(body[start : hub.broken_at] if breaks else body[start:])
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def running_hub():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


def emo_weights(hub, *words, **environment):
    """The hub's address is read once, when its client is imported: so each call is a process of its own."""
    address = f"http://127.0.0.1:{hub.server_port}"
    return subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "weights", *map(str, words)],
        env={
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            **environment,
        },
        capture_output=True,
        text=True,
    )


def states(folder):
    return {part["name"]: part["state"] for part in check(folder)}


def test_all_weights_come_and_are_checked(hub, tmp_path):
    folder = tmp_path / "w"
    shown = emo_weights(hub, "fetch", folder, "--json")
    assert shown.returncode == 0, shown.stderr
    assert {part["state"] for part in json.loads(shown.stdout)["parts"]} == {"ready"}
    for part in PARTS:
        for file in part.files:
            assert (folder / part.name / file).read_bytes() == FILES[f"{part.repository}/{part.folder}{file}"]
    record = json.loads((folder / "weights.json").read_text())
    assert len(record) == 9 and {entry["commit"] for entry in record.values()} == {COMMIT}
    hub.asked.clear()
    assert emo_weights(hub, "fetch", folder).returncode == 0
    assert not [asked for asked in hub.asked if asked[0] == "GET"]  # nothing is fetched twice
    assert emo_weights(hub, "check", folder).returncode == 0


def test_one_part_alone(hub, tmp_path):
    assert emo_weights(hub, "fetch", tmp_path, "--part", "vae").returncode == 0
    assert states(tmp_path) == {"unet": "missing", "vae": "ready", "motion": "missing", "wav2vec2": "missing"}
    shown = emo_weights(hub, "check", tmp_path)
    assert shown.returncode == 1
    assert "stable-diffusion-v1-5" in shown.stdout and "3438 MB" in shown.stdout and "RAIL" in shown.stdout
    shown = emo_weights(hub, "fetch", tmp_path, "--part", "moon")
    assert (shown.returncode, shown.stderr.splitlines()[-1][:18]) == (2, "error: --part moon")


def test_an_interrupted_fetch_goes_on_where_it_stopped(hub, tmp_path):
    hub.broken_at = 15_000_000  # the hub's client writes 10 MB at a time
    shown = emo_weights(hub, "fetch", tmp_path, "--part", "vae")
    assert shown.returncode == 2
    assert "error: vae" in shown.stderr and "Traceback" not in shown.stderr
    assert states(tmp_path)["vae"] == "missing"  # nothing half-written has the final name
    hub.broken_at = None
    hub.asked.clear()
    assert emo_weights(hub, "fetch", tmp_path, "--part", "vae").returncode == 0
    large = [start for command, path, start in hub.asked if command == "GET" and path.endswith("safetensors")]
    assert large and min(large) >= 10_000_000
    assert states(tmp_path)["vae"] == "ready"


def test_what_comes_damaged_does_not_stay(hub, tmp_path):
    hub.spoil = True
    shown = emo_weights(hub, "fetch", tmp_path, "--part", "vae")
    assert shown.returncode == 2 and "damaged" in shown.stderr
    assert not (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").exists()
    hub.spoil = False
    assert emo_weights(hub, "fetch", tmp_path, "--part", "vae").returncode == 0
    assert states(tmp_path)["vae"] == "ready"


def test_without_a_network_it_says_what_to_do(hub, tmp_path):
    shown = emo_weights(hub, "fetch", tmp_path, HF_HUB_OFFLINE="1")
    assert shown.returncode == 2
    last = shown.stderr.splitlines()[-1]
    assert last.startswith("error: unet") and "on a machine that has it" in last


def test_files_put_there_by_hand_and_files_that_rot(tmp_path, monkeypatch):
    for part in PARTS:
        (tmp_path / part.name).mkdir()
        for file in part.files:
            (tmp_path / part.name / file).write_bytes(FILES[f"{part.repository}/{part.folder}{file}"])
    assert set(states(tmp_path).values()) == {"unverified"}
    vae = tmp_path / "vae" / "config.json"
    record = {
        "vae/config.json": weights.FileRecord(
            repository="r", commit="c", sha256=hashlib.sha256(vae.read_bytes()).hexdigest(), size=vae.stat().st_size
        ).model_dump()
    }
    (tmp_path / "weights.json").write_text(json.dumps(record))
    vae.write_bytes(vae.read_bytes()[:-1] + b"!")
    assert states(tmp_path)["vae"] == "damaged"
