"""A page to look at: what was accepted, and what was rejected and why. One HTML file, pictures inside, no scripts."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emo_data.schema import REJECTION_SCHEMA
from emo_data.store import Dataset
from emo_data.video import decode_clip
from emo_data.whole import whole_file

_THUMBNAIL = 112
_STYLE = (
    "body{font:14px sans-serif;margin:24px;background:#fafafa;color:#222}"
    "section{display:flex;flex-wrap:wrap;gap:12px}"
    "figure{margin:0;width:336px;background:#fff;border:1px solid #ddd;padding:6px}"
    "figure.rejected{width:160px}figcaption{font-size:12px;overflow-wrap:anywhere}img{display:block;max-width:100%}"
)
_NUMBERS = [
    "frames",
    "sound_state",
    "face_size",
    "detection_rate",
    "sharpness",
    "blur",
    "brightness",
    "yaw_range",
    "loudness",
    "speech_ratio",
    "mouth_sound_correlation",
]


def write_report(url: str, out: Path, most: int) -> int:
    """Show up to `most` clips, and as many rejections of each reason, evenly chosen. Returns how many pictures."""
    dataset = Dataset.open(url)
    places, table = dataset.clips(["clip_id"])
    shown = [_clip(dataset.read_clip(places[number], _WANTED)) for number in _spread(len(places), most)]
    parts = [
        "<!doctype html><meta charset=utf-8>",
        f"<title>{html.escape(url)}</title><style>{_STYLE}</style><h1>{html.escape(url)}</h1>",
        f"<h2>{table.num_rows} clips, {len(shown)} shown</h2><section>{''.join(shown)}</section>",
    ]
    rejections = dataset.rejections(REJECTION_SCHEMA.names)
    reasons = np.array(rejections.column("reason").to_pylist(), dtype=object)
    for reason in sorted(set(reasons)):
        of_it = np.flatnonzero(reasons == reason)
        rows = [rejections.slice(int(of_it[number]), 1).to_pylist()[0] for number in _spread(len(of_it), most)]
        figures = "".join(_rejection(row) for row in rows)
        parts.append(f"<h2>rejected: {reason}, {len(of_it)}, {len(rows)} shown</h2><section>{figures}</section>")
        shown.extend(row["picture"] for row in rows if row["picture"])
    with whole_file(out) as unfinished:
        unfinished.write_text("\n".join(parts), encoding="utf-8")
    return len(shown)


_WANTED = ["clip_id", "source", "start_seconds", "end_seconds", "identity", "split", "video", "speed", *_NUMBERS]


def _clip(row: dict[str, Any]) -> str:
    """Three moments side by side, and the numbers."""
    pictures = decode_clip(row["video"])
    moments = [pictures[number] for number in (0, len(pictures) // 2, len(pictures) - 1)]
    strip = Image.new("RGB", (3 * _THUMBNAIL, _THUMBNAIL))
    for number, picture in enumerate(moments):
        strip.paste(Image.fromarray(picture).resize((_THUMBNAIL, _THUMBNAIL)), (number * _THUMBNAIL, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=80)
    numbers = [
        f"{name} {row[name]:.3g}" if isinstance(row[name], float) else f"{name} {row[name]}" for name in _NUMBERS
    ]
    speed = row["speed"][np.isfinite(row["speed"])]
    numbers.append(f"speed {speed.mean():.2f} °/frame" if len(speed) else "speed unknown")
    return _figure("", buffer.getvalue(), [_where(row), f"{row['identity']} ({row['split']})", ", ".join(numbers)])


def _rejection(row: dict[str, Any]) -> str:
    told = row["detail"]
    if row["measured"] is not None:
        told += f": {row['measured']:.3g}" + (
            f", wanted {row['threshold']:.3g}" if row["threshold"] is not None else ""
        )
    return _figure("rejected", row["picture"], [_where(row), told])


def _where(row: dict[str, Any]) -> str:
    return f"{Path(row['source']).name} {row['start_seconds']:.2f}-{row['end_seconds']:.2f} s"


def _figure(kind: str, picture: bytes | None, lines: list[str]) -> str:
    image = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">' if picture else ""
    return f'<figure class="{kind}">{image}<figcaption>{"<br>".join(map(html.escape, lines))}</figcaption></figure>'


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` numbers below `count`, evenly apart."""
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, most))})
