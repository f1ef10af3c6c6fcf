import io
from fractions import Fraction
from functools import partial
from itertools import pairwise

import av
import numpy as np
import pytest

from emo_data.container import Unreadable
from emo_data.film import Premiere, encode_video, video_encoder
from emo_data.video import NoVideo, decode_clip, decoders, probe, read_pictures
from tests.emo_data.conftest import write_wave

SIZE = 64


def shade(value):
    """A picture that says its number by its brightness, brighter above than below."""
    picture = np.full((SIZE, SIZE + 32, 3), value, np.uint8)
    picture[SIZE // 2 :] = value // 2
    return picture


def write(path, ticks, time_base=Fraction(1, 1000), turned=0, stretch=None, values=None):
    """One picture per tick, at exactly that time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = SIZE + 32, SIZE, "yuv420p"
        stream.codec_context.time_base = stream.time_base = time_base
        if stretch:
            stream.codec_context.sample_aspect_ratio = stretch
        if turned:
            stream.set_display_rotation(turned)
        for number, tick in enumerate(ticks):
            value = values[number] if values is not None else 20 + 3 * number
            frame = av.VideoFrame.from_ndarray(shade(value), format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def brightness(pictures):
    return np.array([np.nan if picture is None else picture[4].mean() for picture in pictures])


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_pictures_are_taken_by_time_not_by_number(tmp_path, decoder):
    ticks = np.cumsum([60, 50, 55, 65, 45] * 5 + [20, 30, 25] * 12) + 500  # variable rate, starts late
    write(tmp_path / "v.mp4", ticks.tolist(), values=(20 + (ticks - ticks[0]) // 10).tolist())
    info = probe(tmp_path / "v.mp4")
    assert info.times[0] == pytest.approx(ticks[0] / 1000, abs=1e-3)
    grid = info.at_rate(25)
    assert len(grid) == pytest.approx(round((ticks[-1] - ticks[0]) / 40), abs=2)
    late = (brightness(read_pictures(info, grid, decoder)) - 20) * 10 / 1000 - np.arange(len(grid)) / 25
    assert np.abs(late).max() < 0.045 and np.abs(late).mean() < 0.02 and abs(late.mean()) < 0.01


def test_a_hole_in_time_has_no_pictures(tmp_path):
    ticks = [*range(0, 1000, 40), *range(2000, 3000, 40)]
    write(tmp_path / "v.mp4", ticks)
    info = probe(tmp_path / "v.mp4")
    assert info.seconds == pytest.approx(3.0, abs=0.1)
    nothing = np.flatnonzero(info.at_rate(25) < 0) / 25
    assert nothing.min() == pytest.approx(1.08, abs=0.041) and nothing.max() == pytest.approx(1.88, abs=0.041)
    assert len(nothing) == pytest.approx(20, abs=2)


def test_a_slower_or_faster_source_keeps_its_duration(tmp_path):
    for step, frames in ((33, 31), (8, 125), (50, 20)):
        write(tmp_path / "v.mp4", [step * number for number in range(frames)], values=[60] * frames)
        assert len(probe(tmp_path / "v.mp4").at_rate(25)) == pytest.approx(25, abs=1)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_turned_and_stretched_pictures_come_as_shown(tmp_path, decoder):
    write(tmp_path / "v.mp4", range(0, 400, 40), turned=90, stretch=Fraction(1, 2), values=[200] * 10)
    info = probe(tmp_path / "v.mp4")
    assert (info.width, info.height) == (SIZE, (SIZE + 32) // 2)  # coded 96x64, half as wide, then turned
    picture = next(read_pictures(info, np.array([0]), decoder))
    assert picture.shape == (info.height, info.width, 3)
    left, right = picture[:, :20].mean(), picture[:, -20:].mean()
    assert left > right + 50  # the brighter half was above; anticlockwise it is on the left


def test_pictures_from_a_later_place_are_the_same(tmp_path):
    write(tmp_path / "v.mp4", range(0, 8000, 40), values=[20 + n % 200 for n in range(200)])
    info = probe(tmp_path / "v.mp4")
    for decoder in decoders(info):
        all_of_them = list(read_pictures(info, np.arange(200), decoder))
        for chosen in (np.arange(150, 160), np.array([3, 3, 90, 91, 199]), np.array([-1, 120])):
            for index, picture in zip(chosen, read_pictures(info, chosen, decoder), strict=True):
                assert picture is None if index < 0 else np.array_equal(picture, all_of_them[index])


def test_files_that_are_no_video_say_so(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(Unreadable):
        probe(tmp_path / "text.mp4")
    with pytest.raises(Unreadable):
        probe(tmp_path / "missing.mp4")
    write_wave(tmp_path / "sound.wav", np.zeros(8000))
    with pytest.raises(NoVideo):
        probe(tmp_path / "sound.wav")


def test_corrupt_pictures_are_missing_not_repeated(real_data):
    """71 of 125 pictures can be read, then the file breaks off; the other one is damaged after 1.84 s."""
    cut_off = probe(next((real_data / "hostile" / "video").glob("v02_*")))
    assert len(cut_off.pts) == 71
    holed = probe(next((real_data / "hostile" / "video").glob("v15_*")))
    pictures = list(read_pictures(holed, holed.at_rate(25), "pyav"))
    read = [picture.tobytes() for picture in pictures if picture is not None]
    assert len(read) == len(set(read)) == 46 and all(picture is None for picture in pictures[46:])


def test_a_clip_comes_back_from_its_bytes():
    target = io.BytesIO()
    encode_video(target, (shade(20 + 4 * number) for number in range(40)), 25)
    video = target.getvalue()
    clip = decode_clip(video)
    assert clip.shape == (40, SIZE, SIZE + 32, 3)
    assert np.abs(clip[:, 4].mean((1, 2)) - (20 + 4 * np.arange(40))).max() < 6


def test_red_stays_red(tmp_path):
    """Pictures are RGB, through every decoder: a detector that is handed BGR sees fewer faces and does not say so."""
    red = np.full((SIZE, SIZE, 3), (200, 40, 90), np.uint8)
    encode_video(tmp_path / "red.mp4", [red] * 30, 25)
    info = probe(tmp_path / "red.mp4")
    pictures = [next(read_pictures(info, np.array([3]), decoder)) for decoder in ("decord", "pyav")]
    pictures.append(decode_clip((tmp_path / "red.mp4").read_bytes())[3])
    for picture in pictures:
        assert picture.mean((0, 1)) == pytest.approx((200, 40, 90), abs=6)


def test_equal_pictures_are_encoded_to_equal_bytes():
    """x264's mbtree makes a difference in about half of the encodings of a picture this small."""
    rng = np.random.default_rng(0)
    wall = np.kron(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    frames = [wall[shift : shift + 64, 2 * shift : 2 * shift + 64] for shift in range(60)]

    def encoded():
        target = io.BytesIO()
        encode_video(target, frames, 25)
        return target.getvalue()

    assert len({encoded() for _ in range(12)}) == 1


def test_after_damage_there_is_nothing_until_a_key_frame(tmp_path):
    """What leans on a damaged picture is smeared, though the decoder hands it out without a word."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (96, 224, 3), dtype=np.uint8).repeat(2, 0)
    moving = [np.ascontiguousarray(scene[:, number : number + 192]) for number in range(75)]
    encode_video(tmp_path / "whole.mp4", moving, 25, key_frame_seconds=1)
    whole = probe(tmp_path / "whole.mp4")
    with av.open(str(tmp_path / "whole.mp4")) as container:
        hit = next(packet for packet in container.demux(video=0) if packet.pts == whole.pts[30])
        data = bytearray((tmp_path / "whole.mp4").read_bytes())
        middle = hit.pos + hit.size // 3
    data[middle : middle + 200] = rng.integers(0, 255, 200, dtype=np.uint8).tobytes()
    (tmp_path / "damaged.mp4").write_bytes(data)
    info = probe(tmp_path / "damaged.mp4")
    good = list(read_pictures(whole, np.arange(75), "pyav"))
    seen = list(read_pictures(info, np.arange(75), "pyav"))
    lost = [number for number, picture in enumerate(seen) if picture is None]
    assert lost[0] in range(25, 31) and lost[-1] == 49 and lost == list(range(lost[0], 50))
    assert all(np.array_equal(seen[number], good[number]) for number in range(75) if number not in lost)


def holes(path) -> dict[str, int]:
    """How often a packet does not begin where the one before it ends, up to the last picture: a browser then shows no
    picture for seconds. But for the first: what passes before the sound begins counts as its."""
    found, last = {}, None
    with av.open(str(path)) as film:
        for stream in (*film.streams.video, *film.streams.audio):
            film.seek(0)
            told = [(packet.dts, packet.duration) for packet in film.demux(stream) if packet.dts is not None]
            last = last or told[-1][0] * stream.time_base
            told = [one for one in told if one[0] * stream.time_base < last]
            found[stream.type] = sum(dts + lasts != after for (dts, lasts), (after, _) in pairwise(told[1:]))
            assert len(told) > 50
    return found


def test_a_premiere_is_the_same_whoever_goes_on_with_it(tmp_path):
    """Encoded as it comes, or what is encoded already repeated: the same bytes, which show every picture."""
    noise = np.random.default_rng(0).integers(0, 40, (60, 64, 64, 3)).astype(np.uint8)
    pictures = list(noise + 100)
    parts = [tmp_path / "0.mp4", tmp_path / "1.mp4"]

    def seen(repeated: int) -> bytes:
        target = tmp_path / f"premiere{repeated}.mp4"
        with Premiere(target, 25, iter([np.zeros((2, 48_000), np.float32)] * 3), 48_000) as premiere:
            for number, part in enumerate(parts):
                if number < repeated:
                    premiere.repeat(part, 30 * number)
                    continue
                with video_encoder(part, 25, watcher=partial(premiere.show, before=30 * number)) as add:
                    for picture in pictures[30 * number : 30 * (number + 1)]:
                        add(picture)
        assert len(list(read_pictures(probe(target), np.arange(60), "pyav"))) == 60
        return target.read_bytes()

    whole = seen(0)
    assert seen(1) == whole and seen(2) == whole
    assert holes(tmp_path / "premiere0.mp4") == {"video": 0, "audio": 0}
    interrupted = tmp_path / "interrupted.mp4"
    with pytest.raises(KeyboardInterrupt), Premiere(interrupted, 25, iter([]), 48_000) as premiere:
        premiere.repeat(parts[0], 0)
        raise KeyboardInterrupt
    with Premiere(tmp_path / "silent.mp4", 25, iter([]), 48_000) as premiere:
        premiere.repeat(parts[0], 0)
    assert (tmp_path / "silent.mp4").read_bytes().startswith(interrupted.read_bytes())
