"""The one entry point of work that a flow has started: `python -m flows.job`, on this machine or within a cluster.

What is to be done stands in the environment. Prefect is not known here: what there is to tell goes into the notes.
"""

import os
import signal
import sys
import traceback

from emo_data.errors import UserError
from flows.notes import VARIABLE, Notes, Result, Spec, versions
from flows.told import Told


def main() -> int:
    """Do it and write down how it ended; the exit code says the same to whoever looks there."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops us lets us clear up
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    spec = Spec.model_validate_json(os.environ[VARIABLE])
    here = versions()
    print(f"{spec.id}: {', '.join(f'{name} {number}' for name, number in here.items())}", flush=True)
    notes = Notes(str(spec.where["notes"]), spec.id)
    with Told(notes) as told:
        result = _outcome(spec, here, told)
    told.end(result)
    print(f"{spec.id}: {result.state}{': ' if result.error else ''}{result.error}", flush=True)
    return 0 if result.state == "done" else 1


def _outcome(spec: Spec, here: dict[str, str], told: Told) -> Result:
    others = [f"{name} {here.get(name)} here, {number} there" for name, number in spec.versions.items()]
    if spec.versions != here:
        error = f"the flow and this machine have different versions: {'; '.join(others)}; give both the same image"
        return Result(state="failed", error=error, usage=True)
    from flows.work import do

    try:
        return Result(state="done", value=do(spec, told))
    except UserError as error:
        return Result(state="failed", error=str(error), usage=True)
    except KeyboardInterrupt:
        return Result(state="stopped", error="it was told to stop")
    except Exception as error:  # noqa: BLE001 - it is told, with its traceback
        traceback.print_exc()
        return Result(state="failed", error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
