"""The standard networks, as local TorchScript files whose checksum the user states. Nothing is downloaded.

A TorchScript file is a program. So none is opened before its sha256 is found in the SHA256SUMS beside it, which whoever
fetched it writes (`sha256sum *.pt > SHA256SUMS`) and compares with what its publisher says.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emo_data.errors import UserError

SUMS = "SHA256SUMS"
_BATCH = 16


class Net:
    """A frozen network from a file. file: its name; sha256: of program, its content."""

    def __init__(self, path: Path, program: bytes, sha256: str, device: torch.device) -> None:
        self.file, self.sha256, self._device = path.name, sha256, device
        try:
            self._module = torch.jit.load(io.BytesIO(program), map_location=device).eval()
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"--weights {path}: is no TorchScript file: {reason}") from error

    @torch.inference_mode()
    def __call__(self, rows: np.ndarray, width: int | None = None, method: str = "forward", **how: Any) -> np.ndarray:
        """rows (N, ...) -> float32 (N, width), 16 at a time. UserError where the network gives something else."""
        found = []
        for begin in range(0, len(rows), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(rows[begin : begin + _BATCH])).to(self._device)
            try:
                answer = getattr(self._module, method)(batch, **how)
            except (RuntimeError, AttributeError) as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"--weights {self.file}: cannot be called as {method}({how}): {reason}") from error
            if answer.ndim != 2 or len(answer) != len(batch) or width not in (None, answer.shape[1]):
                raise UserError(
                    f"--weights {self.file}: gives {tuple(answer.shape)}, not ({len(batch)}, {width or 'D'})"
                )
            if not answer.isfinite().all():
                raise UserError(f"--weights {self.file}: gives features that are not finite numbers")
            found.append(answer.float().cpu().numpy())
        return np.concatenate(found)


def opened(folder: Path, file: str, device: torch.device) -> Net | None:
    """The network in folder/file; None where there is no such file. UserError where its checksum is not as stated."""
    path = folder / file
    if not path.is_file():
        return None
    stated = _stated(folder).get(file)
    if stated is None:
        raise UserError(
            f"--weights {path}: {SUMS} beside it does not name it; a network is a program, so state which file "
            f"is meant: `sha256sum {file} >> {SUMS}`, after comparing it with what its publisher says"
        )
    program = path.read_bytes()  # once: what is opened is what was summed, whoever writes there meanwhile
    sha256 = hashlib.sha256(program).hexdigest()
    if sha256 != stated:
        raise UserError(f"--weights {path}: its sha256 is {sha256}, but {SUMS} says {stated}; fetch the file again")
    return Net(path, program, sha256, device)


def _stated(folder: Path) -> dict[str, str]:
    """Name -> sha256, from lines as `sha256sum` writes them."""
    sums = folder / SUMS
    if not sums.is_file():
        return {}
    try:
        lines = [line for line in sums.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"--weights {sums}: is no text") from error
    found = [re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line) for line in lines]
    wrong = [line for line, match in zip(lines, found, strict=True) if not match]
    if wrong:
        raise UserError(f"--weights {sums}: {wrong[0]!r} is not `sha256  name`, as sha256sum writes it")
    return {match[2].removeprefix("./"): match[1].lower() for match in found if match}
