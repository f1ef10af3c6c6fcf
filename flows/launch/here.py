"""Jobs as processes of this machine, which outlive whoever started them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from emo_data.whole import whole_file
from flows.launch.launcher import JobLost, Life
from flows.notes import VARIABLE, Spec

ID = "EMO_JOB_ID"
"""In the environment of a job and of all that it starts, so that none of it is missed when it is ended."""
_PATIENCE = 10.0
"""Seconds that a job has to end by itself: a cancelled flow must be over in 30."""
_OURS = ("PREFECT_", "EMO_JOB")


class Here:
    """Local processes. notes: a folder of this machine."""

    def __init__(self, notes: str, secrets: dict[str, str] | None = None) -> None:
        """secrets: for the environment of jobs."""
        self._notes, self._secrets = Path(notes), secrets or {}

    def submit(self, spec: Spec) -> None:
        """See `Launcher`."""
        folder = self._notes / spec.id
        folder.mkdir(parents=True, exist_ok=True)
        # The API's address and key are the flow's business.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | inherited  # as the `emo` command has it
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.job"],
                env=quiet | self._secrets | {VARIABLE: spec.model_dump_json(), ID: spec.id},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with contextlib.suppress(psutil.NoSuchProcess), whole_file(folder / "process.json") as path:
            born = psutil.Process(process.pid).create_time()
            path.write_text(json.dumps({"pid": process.pid, "born": born}))

    def status(self, job: str) -> tuple[Life, str]:
        """See `Launcher`."""
        leader = self._leader(job)
        if leader is not None:
            return Life.RUNNING, ""
        if not (self._notes / job / "process.json").exists():
            return Life.UNKNOWN, ""
        last = self.logs(job, 0)[0].rpartition("\n")[2]
        return Life.ENDED, f"its process is gone; its last words: {last}" if last else "its process is gone"

    def stop(self, job: str) -> None:
        """See `Launcher`."""
        leader = self._leader(job)
        if leader is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                leader.send_signal(signal.SIGTERM)
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end and self._leader(job) is not None:
                time.sleep(0.1)
        for _ in range(50):  # what is killed may have just started another
            left = family(job)
            if not left:
                return
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=0.2)
        raise JobLost(f"{job}: its processes cannot be ended: {', '.join(str(process.pid) for process in left)}")

    def logs(self, job: str, start: int) -> tuple[str, int]:
        """See `Launcher`: whole lines, by bytes."""
        try:
            with (self._notes / job / "log.txt").open("rb") as file:
                file.seek(start)
                lines, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return "", start
        return lines.decode(errors="replace"), start + len(lines + end)

    def link(self, job: str) -> str:
        """See `Launcher`."""
        return ""

    def _leader(self, job: str) -> psutil.Process | None:
        """The process of the job, while it runs."""
        try:
            told = json.loads((self._notes / job / "process.json").read_text())
        except FileNotFoundError:
            # Whoever started it may have been killed before it could write that down.
            return next((one for one in family(job) if "flows.job" in one.cmdline()), None)
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(told["pid"])
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and abs(process.create_time() - told["born"]) < 1:
                return process
        return None


def family(job: str) -> list[psutil.Process]:
    """All processes of this machine that belong to a job."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it is gone, or somebody else's
            if process.environ().get(ID) == job and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
