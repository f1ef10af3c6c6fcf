import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from emo_data.container import Unreadable
from emo_data.errors import UserError
from emo_data.film import encode_video
from emo_data.schema import SAMPLE_RATE
from emo_data.sound import film_sound, read_sound, sound_between, spool_sound, write_sound
from emo_data.video import probe
from tests.emo_data.conftest import write_wave


def tone(seconds, rate=16_000):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


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
    encode_video(tmp_path / "mute.mp4", [np.zeros((64, 64, 3), np.uint8)] * 10, 25)
    causes = {"empty.wav": "empty", "text.wav": "sound", "none.wav": "zero length", "nan.wav": "NaN"}
    for name, cause in (causes | {"mute.mp4": "no sound", "gone.wav": "no such"}).items():
        with pytest.raises(UserError, match=cause) as error:
            read_sound(tmp_path / name)
        assert name in str(error.value)


def test_a_sound_on_the_disk_is_the_sound(tmp_path):
    """Whole and in slices; its file has no name, so nothing is left of it."""
    write_sound(tmp_path / "voice.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 50_000).astype(np.float32))
    whole, spooled = read_sound(tmp_path / "voice.wav"), spool_sound(tmp_path / "voice.wav", tmp_path)
    assert len(spooled) == len(whole) == 50_000 and np.array_equal(spooled[:], whole)
    for part in (slice(100, 2000), slice(49_000, 60_000), slice(60_000, 70_000), slice(0, 0)):
        assert np.array_equal(spooled[part], whole[part])
    assert {path.name for path in tmp_path.iterdir()} == {"voice.wav"}


def test_what_is_no_number_harms_only_the_stretch_that_holds_it(tmp_path):
    """Not the next one, which a decoder runs up to from before its beginning."""
    samples = np.full(4 * 16_000, 0.25, np.float32)
    samples[round(1.2 * 16_000)] = np.nan
    with av.open(tmp_path / "odd.wav", "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.array_equal(sound_between(tmp_path / "odd.wav", 2.0, 1.0), samples[:16_000])
    with pytest.raises(Unreadable, match="not numbers"):
        sound_between(tmp_path / "odd.wav", 1.0, 1.0)
    with pytest.raises(UserError, match="not numbers"):
        spool_sound(tmp_path / "odd.wav", tmp_path)


def test_joined_files_change_their_rate_midway(tmp_path):
    """Two MP3 of other rates, one after the other in one file."""
    tone = np.sin(np.arange(SAMPLE_RATE) / 10).astype(np.float32)[None]
    for name, rate in (("a.mp3", 44_100), ("b.mp3", 22_050)):
        with av.open(tmp_path / name, "w") as container:
            stream = container.add_stream("mp3", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            resampler = av.AudioResampler(format="fltp", rate=rate, frame_size=1152)
            for block in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(block))
            container.mux(stream.encode())
    (tmp_path / "both.mp3").write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("a.mp3", "b.mp3")))
    sound = read_sound(tmp_path / "both.mp3")
    assert len(sound) > 1.5 * SAMPLE_RATE and np.abs(sound[-SAMPLE_RATE // 2 : -SAMPLE_RATE // 4]).max() > 0.5


def test_what_is_heard_beside_a_picture_keeps_its_channels_and_pitch(tmp_path):
    """Two tones, one of them above what 16 kHz can hold; a gap is silence, and the end is where it is said to be."""
    times = np.arange(48_000) / 48_000
    left, right = 0.5 * np.sin(2 * np.pi * 440 * times), 0.5 * np.sin(2 * np.pi * 12_000 * times)
    with av.open(tmp_path / "song.mkv", "w") as container:
        stream = container.add_stream("pcm_f32le", rate=48_000, layout="stereo")
        for second in (0, 2):
            pcm = np.stack([left, right], 1).reshape(1, -1).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(pcm, format="flt", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 48_000 * second, Fraction(1, 48_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for seconds in (2.5, 3.5):
        sound = np.concatenate(list(film_sound(tmp_path / "song.mkv", seconds)), axis=1)
        assert sound.shape == (2, round(seconds * 48_000))
        for channel, hertz in zip(sound, (440, 12_000), strict=True):
            assert np.abs(np.fft.rfft(channel[:48_000])).argmax() == hertz
            assert np.abs(channel[50_000:94_000]).max() == 0 and np.abs(channel[97_000:]).max() > 0.4
        assert np.abs(sound[:, 144_500:]).max(initial=0) == 0
