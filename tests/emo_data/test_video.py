import io
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from emo_data.errors import UserError
from emo_data.video import (
    NoVideo,
    Unreadable,
    decode_clip,
    decode_frames,
    decoders,
    encode_video,
    probe,
    read_pictures,
    read_sound,
    sound_between,
)

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
    """71 of 125 pictures can be read, then the file breaks off; the other one has holes in mid-stream."""
    cut_off = probe(next((real_data / "hostile" / "video").glob("v02_*")))
    assert len(cut_off.pts) == 71
    holed = probe(next((real_data / "hostile" / "video").glob("v15_*")))
    pictures = list(read_pictures(holed, holed.at_rate(25), "pyav"))
    read = [picture.tobytes() for picture in pictures if picture is not None]
    assert 5 < len(pictures) - len(read) < 40 and len(set(read)) == len(read)


def tone(seconds, rate=16_000):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def write_wave(path, samples, rate=16_000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat((samples * 32767).astype("<i2"), channels).tobytes())


def test_sound_lies_where_its_time_stamps_say(tmp_path):
    """A burst 1 s into a track that itself starts 0.5 s after the pictures."""
    burst = np.zeros(32_000)
    burst[16_000:17_600] = tone(0.1)
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((burst * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 8_000, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    whole = sound_between(tmp_path / "v.mkv", 0.0, 4.0)
    assert len(whole) == 64_000
    heard = np.flatnonzero(np.abs(whole) > 0.01)
    assert heard[0] / 16_000 == pytest.approx(1.5, abs=0.002) and heard[-1] / 16_000 == pytest.approx(1.6, abs=0.002)
    later = sound_between(tmp_path / "v.mkv", 1.4, 1.0)
    assert np.flatnonzero(np.abs(later) > 0.01)[0] / 16_000 == pytest.approx(0.1, abs=0.002)


def test_real_tracks_are_aligned_by_time(real_data):
    videos = real_data / "hostile" / "video"
    late = sound_between(next(videos.glob("v27_*")), 0.0, 5.0)
    assert np.abs(late[: int(1.45 * 16_000)]).max() < 1e-3 < np.abs(late[int(1.6 * 16_000) :]).max()
    original = sound_between(next((real_data / "video").glob("d01_*")), 0.0, 5.0)
    shifted = late[round(1.49925 * 16_000) :]
    assert np.corrcoef(shifted, original[: len(shifted)])[0, 1] > 0.95
    assert len(sound_between(next(videos.glob("v29_*")), 0.0, 5.0)) == 80_000
    two = probe(next(videos.glob("v30_*")))
    assert (two.width, two.streams) == (512, 2)  # the first track, not the largest


def test_sound_of_any_kind_becomes_16_khz_mono(tmp_path, real_data):
    write_wave(tmp_path / "s.wav", tone(2, 44_100), 44_100, channels=2)
    sound = read_sound(tmp_path / "s.wav")
    assert sound.dtype == np.float32 and len(sound) == pytest.approx(32_000, abs=2)
    assert np.abs(sound).max() == pytest.approx(0.5, abs=0.02)  # two equal channels are not twice as loud
    for name in ("x01_mono_8k.wav", "x31_flac.flac", "x15_digital_silence_3s.wav", "x22_truncated.wav"):
        assert len(read_sound(real_data / "hostile" / "audio" / name)) > 16_000


def test_sound_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound at all, just letters")
    write_wave(tmp_path / "none.wav", np.zeros(0))
    samples = np.full(1600, np.nan, "<f4").tobytes()
    head = b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 3, 1, 16_000, 64_000, 4, 32) + b"data" + struct.pack("<I", len(samples))
    (tmp_path / "nan.wav").write_bytes(head + samples)
    write(tmp_path / "mute.mp4", range(0, 400, 40))
    causes = {"empty.wav": "empty", "text.wav": "sound", "none.wav": "zero length", "nan.wav": "NaN"}
    for name, cause in (causes | {"mute.mp4": "no sound", "gone.wav": "no such"}).items():
        with pytest.raises(UserError, match=cause) as error:
            read_sound(tmp_path / name)
        assert name in str(error.value)


def test_a_clip_comes_back_from_its_bytes():
    target = io.BytesIO()
    encode_video(target, (shade(20 + 4 * number) for number in range(40)), 25)
    video = target.getvalue()
    clip = decode_clip(video)
    assert clip.shape == (40, SIZE, SIZE + 32, 3)
    assert np.abs(clip[:, 4].mean((1, 2)) - (20 + 4 * np.arange(40))).max() < 6
    assert np.array_equal(decode_frames(video, [30, 2, 2, 39]), clip[[30, 2, 2, 39]])


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
