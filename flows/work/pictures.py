"""Pictures for a page: small enough to be sent along."""

from pathlib import Path

import numpy as np
from PIL import Image

from emo_core.inference.export import contact_sheet, save_picture
from emo_data.video import probe, read_pictures

_WIDTH = 960
_FRAMES = 8


def shrunk(picture: Path, out: Path) -> None:
    """A PNG no wider than a page."""
    with Image.open(picture) as opened:
        opened.thumbnail((_WIDTH, _WIDTH))
        opened.save(out)


def sheet(video: Path, out: Path) -> None:
    """Some frames of a video as a PNG."""
    info = probe(video)
    chosen = np.unique(np.linspace(0, len(info.times) - 1, _FRAMES).round().astype(int))
    frames = np.stack([np.array(picture) for picture in read_pictures(info, chosen, "pyav")])
    save_picture(contact_sheet(frames, columns=4), out)
    shrunk(out, out)
