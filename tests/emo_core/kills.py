"""A training run in a process that kills itself at a chosen write or step; as a program, that process.

python -m tests.emo_core.kills '{"stage": 1, "data": …, "out": …, "init": null, "numbers": {…}, "kill": [7, "half"]}'
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

WHEN = ("before", "half", "after")


def run_once(log: Path, kill: tuple[int, str] | None = None, **told: object) -> int:
    """Exit code of a run that dies at its event number kill[0], counted from 1. log: gets a line for each event."""
    told |= {"kill": kill, "log": str(log)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.emo_core.kills", json.dumps(told)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Killer:
    def __init__(self, kill: tuple[int, str] | None, log: Path) -> None:
        self.kill, self.log, self.count = kill, log, 0

    def event(self, name: str) -> str | None:
        """When to die at this event: before, half, after; None to live on."""
        self.count += 1
        with self.log.open("a") as file:
            file.write(name + "\n")
        return self.kill[1] if self.kill and self.count == self.kill[0] else None

    def wrap(self) -> None:
        from emo_data.objects import Folder

        def wrapped(kind, honest, half):
            def call(folder, name, *arguments):
                if "lease" in name:
                    return honest(folder, name, *arguments)
                when = self.event(f"{kind} {name}")
                if when == "before":
                    _die()
                if when == "half":
                    half(folder, name, *arguments)
                    _die()
                answer = honest(folder, name, *arguments)
                if when == "after":
                    _die()
                return answer

            return call

        def half_put(folder, name, file):
            half_write(folder, name, file.read_bytes())

        def half_write(folder, name, data):
            if folder.local:
                target = Path(folder.url) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (target.parent / f".{target.name}.half").write_bytes(data[: len(data) // 2])

        def half_remove(folder, name):
            names = folder.below(name).all_names()
            folder.delete([f"{name}/{one}" for one in names[: len(names) // 2]])

        Folder.put = wrapped("put", Folder.put, half_put)
        Folder.write = wrapped("write", Folder.write, half_write)
        Folder.remove = wrapped("remove", Folder.remove, half_remove)


def main(told: dict) -> None:
    """Carry out the run."""
    import torch

    import emo_core.model.config
    from emo_core.training.plan import plan
    from emo_core.training.run import carry_out
    from tests.emo_core.runs import recipe, smallest_config

    emo_core.model.config.tiny = smallest_config
    torch.set_num_threads(1)
    killer = _Killer(told["kill"], Path(told["log"]))
    killer.wrap()

    def on_step(done: int, _total: int, _note: str) -> None:
        if killer.event(f"step {done}"):
            _die()

    planned = plan(recipe(told["stage"], **told["numbers"]), told["data"], told["out"], told["init"])
    carry_out(planned, torch.device("cpu"), on_step=on_step)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
