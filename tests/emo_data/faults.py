"""Makes the product's processes misbehave on files of certain names, without a line of it in the product.

A `sitecustomize` on PYTHONPATH, which every Python reads when it starts, wraps the function that opens a video.
"""

from emo_data.schema import Reason

WAYS = {
    "crash": Reason.CRASHED,
    "exit": Reason.CRASHED,
    "hang": Reason.HUNG,
    "spin": Reason.HUNG,
    "gil": Reason.HUNG,
    "eat": Reason.OUT_OF_MEMORY,
    "raise": Reason.FAILED,
}

FINDER = """
class _Finder:
    def find_spec(self, name, path=None, target=None):
        wrap = _WRAPS.get(name)
        if not wrap:
            return None
        from importlib.machinery import PathFinder
        spec = PathFinder.find_spec(name, path)
        honest = spec.loader.exec_module

        def exec_module(module):
            honest(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, _Finder())
"""
"""The end of a `sitecustomize`: each module that _WRAPS names is handed to its function as soon as it is imported."""

_SITE = """
import sys

def _wrap(video):
    import ctypes, os, time
    honest = video.probe

    def probe(path, beat=lambda: None):
        way = path.name.split(".")[0].split("-")[0]
        if way == "crash":
            print("the last words", file=sys.stderr, flush=True)
            ctypes.string_at(0)
        if way == "exit":
            os._exit(3)
        if way == "hang":
            time.sleep(3600)
        if way == "spin":
            while True:
                pass
        if way == "gil":
            ctypes.PyDLL(None).sleep(3600)  # holds the GIL
        if way == "eat":
            kept = []
            while True:
                kept.append(bytearray(os.urandom(1) * 50_000_000))
                beat()
        if way == "raise":
            1 / 0
        if way == "slow":
            for _ in range(8):
                time.sleep(0.5)
                beat()
        return honest(path, beat)

    video.probe = probe

_WRAPS = {"emo_data.video": _wrap} if "emo_data.ingest.child" in sys.orig_argv else {}
"""


def misbehaving(monkeypatch, tmp_path):
    """From here on children of this test do what a file's name says: crash.mp4, hang.mp4 and so on."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE + FINDER)
    monkeypatch.setenv("PYTHONPATH", str(folder))
