"""From files to files: what ends in a video, what goes on after a kill, what is refused and how."""

import json
import os
import signal
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from emo_core.checkpoint import Card, Checkpoint, save
from emo_core.inference import unfinished
from emo_core.inference.export import MARK
from emo_core.inference.generate import Request, generate
from emo_core.inference.preprocess import Choice, frame_portrait, read_picture
from emo_core.inference.sampling import Sampling
from emo_core.model.codec import LinearCodec
from emo_core.model.emo import build
from emo_data.errors import UserError
from emo_data.sound import read_sound
from emo_data.synthetic import write_sample
from emo_data.video import probe, read_pictures
from tests.emo_core.conftest import BUCKETS, awake
from tests.emo_core.runs import CPU, smallest_config

SAMPLING = Sampling(2, 1, 1)


@pytest.fixture(scope="module")
def given(tmp_path_factory, encoder):
    """A folder with model, portrait.png and voice.wav (2 s: 50 frames, 17 clips of 3)."""
    from emo_core.diffusion import noise_schedule

    folder = tmp_path_factory.mktemp("given")
    config = smallest_config(len(encoder.layers), encoder.width)
    torch.manual_seed(0)
    model = awake(build(config, 3, BUCKETS)).eval()
    codec = LinearCodec.fit(torch.rand(4, 3, 32, 32) * 2 - 1, config.codec_downscale, config.latent_channels)
    card = Card(stage=3, config=config, audio_fingerprint=encoder.fingerprint, speed_buckets=BUCKETS, lineage=["", ""])
    save(Checkpoint(card, model, codec, noise_schedule("sample"), encoder), folder / "model")
    write_sample(folder / "sample", clips=1, seconds=1, seed=0)
    held_out = folder / "sample" / "held_out"
    (held_out / "portrait.png").rename(folder / "portrait.png")
    write_voice(folder / "voice.wav", read_sound(held_out / "voice.wav")[: 2 * 16_000])
    return folder


def write_voice(path, sound):
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        block = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], format="s16", layout="mono")
        block.sample_rate = 16_000
        container.mux(stream.encode(block))
        container.mux(stream.encode())


def request(given, out, **changes):
    return replace(Request(given / "portrait.png", given / "voice.wav", out, sampling=SAMPLING), **changes)


def made(given, out, on_progress=None, **changes):
    generate(given / "model", request(given, out, **changes), CPU, on_progress)
    return out.read_bytes()


def pictures(path):
    info = probe(path)
    return np.stack(list(read_pictures(info, np.arange(len(info.pts)), "pyav")))


@pytest.fixture
def short_segments(monkeypatch):
    """Four clips each."""
    monkeypatch.setattr(unfinished, "SEGMENT_SECONDS", 0.48)


def make_and_die(given: Path, out: Path, last_step: int) -> None:
    def die(step: int, _total: int) -> None:
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    unfinished.SEGMENT_SECONDS = 0.48
    torch.set_num_threads(1)
    made(given, out, die, resume=True)


@pytest.mark.parametrize("last_step", [1, 8, 9, 33])
def test_a_killed_generation_goes_on_to_the_same_video(given, tmp_path, short_segments, last_step):
    """In its first clip, at a segment's end, after it, in the last clip: byte for byte what was never killed."""
    child = get_context("spawn").Process(target=make_and_die, args=(given, tmp_path / "killed.mp4", last_step))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "killed.mp4").exists()
    steps = []
    found = made(given, tmp_path / "killed.mp4", lambda step, _total: steps.append(step), resume=True)
    assert found == made(given, tmp_path / "whole.mp4")
    first = (last_step - 1) // SAMPLING.steps * SAMPLING.steps  # of the clip that it died in
    assert steps == list(range(first + 1, 35))
    assert {path.name for path in tmp_path.iterdir()} == {"killed.mp4", "killed.json", "whole.mp4", "whole.json"}


def test_another_video_does_not_go_on_there(given, tmp_path, short_segments):
    class Stop(Exception):
        pass

    def stop(step, _total):
        if step == 20:
            raise Stop

    with pytest.raises(Stop):
        made(given, tmp_path / "v.mp4", stop, resume=True)
    with pytest.raises(UserError, match=r"v\.mp4\.unfinished was begun with another seed, speed"):
        made(given, tmp_path / "v.mp4", resume=True, sampling=replace(SAMPLING, seed=1), speed="still")
    assert (tmp_path / "v.mp4.unfinished" / "segment-00001.mp4").exists()
    with pytest.raises(Stop):
        made(given, tmp_path / "w.mp4", stop)
    assert {path.name for path in tmp_path.iterdir()} == {"v.mp4.unfinished"}


def test_a_folder_of_other_things_is_left_alone(given, tmp_path):
    (tmp_path / "v.mp4.unfinished").mkdir()
    (tmp_path / "v.mp4.unfinished" / "diary.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        made(given, tmp_path / "v.mp4", resume=True)
    assert (tmp_path / "v.mp4.unfinished" / "diary.txt").exists()


def test_the_video_says_what_it_is_and_how_it_was_made(given, tmp_path):
    made(given, tmp_path / "v.mp4", preview=tmp_path / "v.png")
    with av.open(tmp_path / "v.mp4") as container:
        told = container.metadata
    provenance, sidecar = json.loads(told["description"]), json.loads((tmp_path / "v.json").read_text())
    assert told["comment"] == MARK and provenance["tool"] == "Open EMO" and provenance["seed"] == 0
    assert provenance.items() <= sidecar.items() and sidecar["frames"] == 50 and sidecar["reference_scale"] == 1
    assert "made" in sidecar and "made" not in provenance
    assert Image.open(tmp_path / "v.png").size == (8 * 32, 4 * 32)


def test_frames_and_sound_are_the_sounds(given, tmp_path, short_segments):
    """Exactly as many frames as the sound lasts, and the sound at its time, over several segments."""
    made(given, tmp_path / "v.mp4")
    info, voice = probe(tmp_path / "v.mp4"), read_sound(given / "voice.wav")
    assert len(info.pts) == 50 and np.allclose(np.diff(info.times), 0.04)
    heard = read_sound(tmp_path / "v.mp4")[: len(voice)]
    assert np.corrcoef(heard, voice[: len(heard)])[0, 1] > 0.98


def test_segments_do_not_show(given, tmp_path, monkeypatch):
    """One segment or five: the frames are the same but for the encoder."""
    made(given, tmp_path / "one.mp4")
    monkeypatch.setattr(unfinished, "SEGMENT_SECONDS", 0.48)
    made(given, tmp_path / "five.mp4")
    one, five = (pictures(tmp_path / name).astype(int) for name in ("one.mp4", "five.mp4"))
    assert one.shape == five.shape and np.abs(one - five).mean() < 2


def test_a_mark_for_everybody_to_read(given, tmp_path):
    made(given, tmp_path / "plain.mp4")
    made(given, tmp_path / "marked.mp4", mark=True)
    change = np.abs(pictures(tmp_path / "plain.mp4").astype(int) - pictures(tmp_path / "marked.mp4"))
    assert (change[:, 20:, :].max(axis=(1, 2, 3)) > 60).all() and change[:, :16].mean() < 4


@pytest.fixture(scope="module")
def two_faces(given):
    one = read_picture(given / "portrait.png")
    path = given / "two.png"
    Image.fromarray(np.concatenate([one, one[:, ::-1]], axis=1)).save(path)
    return path


def test_of_several_faces_one_must_be_chosen(given, two_faces):
    with pytest.raises(UserError, match=r"shows 2 faces \(1 at 0\.\d\d,.*; 2 at 0\.[5-9]\d,.*--face N.*--crop"):
        frame_portrait(two_faces, 64, "auto", Choice())
    left, right = (frame_portrait(two_faces, 64, "auto", Choice(face)).picture for face in (1, 2))
    assert (left - right.flip(-1)).abs().mean() < 0.05 < (left - right).abs().mean()
    cut = frame_portrait(two_faces, 64, "auto", Choice(crop=(0.5, 0, 1, 1))).picture
    assert (cut - right).abs().mean() < 0.05
    with pytest.raises(UserError, match=r"--face 3.*shows 2"):
        frame_portrait(two_faces, 64, "auto", Choice(3))
    with pytest.raises(UserError, match="--crop"):
        frame_portrait(two_faces, 64, "auto", Choice(crop=(0.5, 0, 0.5, 1)))


def test_half_a_face_is_refused(given, tmp_path):
    whole = read_picture(given / "portrait.png")
    Image.fromarray(whole[:, : whole.shape[1] // 2]).save(tmp_path / "half.png")
    with pytest.raises(UserError, match=r"no face found|cuts off"):
        frame_portrait(tmp_path / "half.png", 64, "auto", Choice())


def test_a_picture_that_claims_too_much_is_refused(tmp_path):
    """60,000 x 60,000 pixels in some kilobytes."""
    row = Image.new("1", (60_000, 60_000))
    row.save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 2**20
    with pytest.raises(UserError, match="60000"):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_not_cut(tmp_path, mode):
    ramp = np.linspace(0, 1, 256)[None].repeat(8, 0)
    suffix = "png" if mode == "I;16" else "tif"
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    Image.fromarray((ramp * (1 if mode == "F" else 65535)).astype(kind)).save(tmp_path / f"deep.{suffix}")
    shown = read_picture(tmp_path / f"deep.{suffix}")
    assert np.abs(shown[0, :, 0].astype(int) - np.arange(256)).max() <= 1


PORTRAITS = {
    "image/i01_real_woman_474.png": "",
    "image/i02_real_man_3511.jpg": "",
    "image/i03_3d_boy.jpg": "",
    "image/i06_real_woman_upper_1145.jpg": "",
    "image/i07_two_people_2280.jpg": "shows 2 faces",
    "hostile/image/w02_cmyk.jpg": "",
    "hostile/image/w03_animated.gif": "",
    "hostile/image/w06_rgba_transparent.png": "",
    "hostile/image/w10_exif_orientation_6.jpg": "",
    "hostile/image/w15_truncated.jpg": "cannot be read as a picture",
    "hostile/image/w16_zero_bytes.png": "cannot be read as a picture",
    "hostile/image/w17_text_renamed.png": "cannot be read as a picture",
    "hostile/image/w20_flat_gray_noface.png": "no face found",
    "hostile/image/w24_two_identical_faces.png": "shows 2 faces",
}


@pytest.mark.parametrize(("name", "refused"), PORTRAITS.items())
def test_portraits_of_all_kinds(real_data, name, refused):
    if refused:
        with pytest.raises(UserError, match=refused):
            frame_portrait(real_data / name, 64, "auto", Choice())
    else:
        framed = frame_portrait(real_data / name, 64, "auto", Choice())
        assert framed.picture.std() > 0.1 and 0.05 < framed.mask.mean() < 0.9


SOUNDS = {
    "audio/a03_talk_zh_news_48k_stereo.wav": "",
    "audio/a04_talk_de_48k_24bit.wav": "",
    "audio/a05_talk_44k.wav": "",
    "audio/a06_talk_en.wav": "",
    "hostile/audio/x01_mono_8k.wav": "",
    "hostile/audio/x31_flac.flac": "",
    "hostile/audio/x15_digital_silence_3s.wav": "",
    "hostile/audio/x22_truncated.wav": "",
    "hostile/audio/x08_nan_float.wav": "not numbers",
    "hostile/audio/x11_zero_length.wav": "no sound",
    "hostile/audio/x12_zero_bytes.wav": "empty",
    "hostile/audio/x25_text.wav": "cannot be used as sound",
}


@pytest.mark.parametrize(("name", "refused"), SOUNDS.items())
def test_sounds_of_all_kinds(real_data, encoder, name, refused):
    if refused:
        with pytest.raises(UserError, match=refused):
            read_sound(real_data / name)
    else:
        sound = read_sound(real_data / name)
        assert np.isfinite(encoder.encode(sound, round(len(sound) / 640), 25)).all()
