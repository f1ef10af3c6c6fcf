"""From files to files: what ends in a video, what goes on after a kill, what is refused and how."""

import json
import os
import signal
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from emo_core.inference import sampling, unfinished
from emo_core.inference.export import MARK
from emo_core.inference.generate import Request, generate, load_pipeline
from emo_core.inference.preprocess import Choice, frame_portrait, parse_speed, read_picture
from emo_core.inference.sampling import Sampling
from emo_data.errors import UserError
from emo_data.sound import read_sound, write_sound
from emo_data.video import probe, read_pictures
from flows.commands import model
from tests.emo_core.runs import CPU

SAMPLING = Sampling(2, 1, 1)


def request(model_folder, out, **changes):
    return replace(
        Request(model_folder / "portrait.png", model_folder / "voice.wav", out, sampling=SAMPLING), **changes
    )


def made(model_folder, out, on_progress=None, **changes):
    generate(load_pipeline(model_folder / "model", CPU), request(model_folder, out, **changes), on_progress)
    return out.read_bytes()


def pictures(path):
    info = probe(path)
    return np.stack(list(read_pictures(info, np.arange(len(info.pts)), "pyav")))


@pytest.fixture
def short_segments(monkeypatch):
    """Four clips each."""
    monkeypatch.setattr(unfinished, "SEGMENT_SECONDS", 0.48)


class Stop(Exception):
    """What ends a generation in the middle."""


def stop(step, _total):
    if step == 20:
        raise Stop


def make_and_die(model_folder: Path, out: Path, last_step: int) -> None:
    def die(step: int, _total: int) -> None:
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    unfinished.SEGMENT_SECONDS = 0.48
    torch.set_num_threads(1)
    made(model_folder, out, die, resume=True)


@pytest.mark.parametrize("last_step", [1, 8, 9, 33])
def test_a_killed_generation_goes_on_to_the_same_video(model_folder, tmp_path, short_segments, last_step):
    """In its first clip, at a segment's end, after it, in the last clip: byte for byte what was never killed."""
    child = get_context("spawn").Process(target=make_and_die, args=(model_folder, tmp_path / "killed.mp4", last_step))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "killed.mp4").exists()
    steps = []
    found = made(model_folder, tmp_path / "killed.mp4", lambda step, _total: steps.append(step), resume=True)
    assert found == made(model_folder, tmp_path / "whole.mp4")
    first = (last_step - 1) // SAMPLING.steps * SAMPLING.steps  # of the clip that it died in
    assert steps == list(range(first + 1, 35))
    assert {path.name for path in tmp_path.iterdir()} == {"killed.mp4", "killed.json", "whole.mp4", "whole.json"}


def test_another_video_does_not_go_on_there(model_folder, tmp_path, short_segments):
    with pytest.raises(Stop):
        made(model_folder, tmp_path / "v.mp4", stop, resume=True)
    with pytest.raises(UserError, match=r"v\.mp4\.unfinished was begun with another seed, speed"):
        made(model_folder, tmp_path / "v.mp4", resume=True, sampling=replace(SAMPLING, seed=1), speed="still")
    assert (tmp_path / "v.mp4.unfinished" / "segment-00001.mp4").exists()
    with pytest.raises(Stop):
        made(model_folder, tmp_path / "w.mp4", stop)
    assert {path.name for path in tmp_path.iterdir()} == {"v.mp4.unfinished"}


def test_two_processes_do_not_go_on_with_one_video(model_folder, tmp_path, short_segments):
    """The second is told so, and the first does not notice."""
    refused = []

    def again(step, _total):
        if step == 20:
            with pytest.raises(UserError, match="another emo generate is writing it") as error:
                made(model_folder, tmp_path / "v.mp4", resume=True)
            refused.append(error)

    made(model_folder, tmp_path / "v.mp4", again, resume=True)
    made(model_folder, tmp_path / "w.mp4")
    assert refused and (tmp_path / "v.mp4").read_bytes() == (tmp_path / "w.mp4").read_bytes()
    assert not (tmp_path / "v.mp4.unfinished").exists()


def test_an_interrupted_crop_goes_on(model_folder, tmp_path, short_segments):
    """A box is a list once it was written down."""
    how = {"choice": Choice(crop=(0.0, 0.0, 1.0, 1.0)), "resume": True}
    with pytest.raises(Stop):
        made(model_folder, tmp_path / "v.mp4", stop, **how)
    made(model_folder, tmp_path / "v.mp4", lambda step, _: step > 16 or pytest.fail("from the beginning"), **how)


def test_a_name_may_hold_what_ffmpeg_takes_for_a_protocol(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(model_folder, Path("talk: one.mp4"))
    assert {path.name for path in tmp_path.iterdir()} == {"talk: one.mp4", "talk: one.json"}


def test_what_is_not_ours_is_not_replaced(model_folder, tmp_path):
    (tmp_path / "song.json").write_text('{"lyrics": 1}')
    (tmp_path / "folder.mp4").mkdir()
    for name, said in (("song.mp4", "song.json beside it is something else"), ("folder.mp4", "is no file")):
        with pytest.raises(UserError, match=said):
            made(model_folder, tmp_path / name)
    made(model_folder, tmp_path / "v.mp4")
    before = (tmp_path / "v.mp4").read_bytes()
    with pytest.raises(UserError, match="what the video is made from"):
        made(model_folder, tmp_path / "v.mp4", audio=tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").read_bytes() == before
    made(model_folder, tmp_path / "v.mp4")


def test_a_full_disk_is_said_and_what_is_finished_is_kept(model_folder, tmp_path, short_segments, monkeypatch):
    original, calls = unfinished.save_file, []

    def full(*given):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(*given)

    monkeypatch.setattr(unfinished, "save_file", full)
    with pytest.raises(UserError, match="No space left on device; what is finished is kept"):
        made(model_folder, tmp_path / "v.mp4", resume=True)
    made(model_folder, tmp_path / "v.mp4", resume=True)
    made(model_folder, tmp_path / "w.mp4")
    assert (tmp_path / "v.mp4").read_bytes() == (tmp_path / "w.mp4").read_bytes()


def test_a_folder_of_other_things_is_left_alone(model_folder, tmp_path):
    (tmp_path / "v.mp4.unfinished").mkdir()
    (tmp_path / "v.mp4.unfinished" / "diary.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        made(model_folder, tmp_path / "v.mp4", resume=True)
    assert (tmp_path / "v.mp4.unfinished" / "diary.txt").exists()


def test_the_video_says_what_it_is_and_how_it_was_made(model_folder, tmp_path):
    made(model_folder, tmp_path / "v.mp4", preview=tmp_path / "v.png")
    with av.open(tmp_path / "v.mp4") as container:
        told = container.metadata
    provenance, sidecar = json.loads(told["description"]), json.loads((tmp_path / "v.json").read_text())
    assert told["comment"] == MARK and provenance["tool"] == "Open EMO" and provenance["seed"] == 0
    assert provenance.items() <= sidecar.items() and sidecar["frames"] == 50 and sidecar["reference_scale"] == 1
    assert "made" in sidecar and "made" not in provenance
    assert Image.open(tmp_path / "v.png").size == (8 * 32, 4 * 32)


def test_frames_and_sound_are_the_sounds(model_folder, tmp_path, short_segments):
    """Exactly as many frames as the sound lasts, and the sound at its time, over several segments."""
    made(model_folder, tmp_path / "v.mp4")
    info, voice = probe(tmp_path / "v.mp4"), read_sound(model_folder / "voice.wav")
    assert len(info.pts) == 50 and np.allclose(np.diff(info.times), 0.04)
    with av.open(tmp_path / "v.mp4") as container:
        stream = container.streams.audio[0]
        assert stream.rate == 48_000 and stream.channels == 2
    heard = read_sound(tmp_path / "v.mp4")[: len(voice)]
    assert np.corrcoef(heard, voice[: len(heard)])[0, 1] > 0.98


def test_segments_do_not_show(model_folder, tmp_path, monkeypatch):
    """One segment or five: the frames are the same but for the encoder."""
    made(model_folder, tmp_path / "one.mp4")
    monkeypatch.setattr(unfinished, "SEGMENT_SECONDS", 0.48)
    made(model_folder, tmp_path / "five.mp4")
    one, five = (pictures(tmp_path / name).astype(int) for name in ("one.mp4", "five.mp4"))
    assert one.shape == five.shape and np.abs(one - five).mean() < 2


def test_a_mark_for_everybody_to_read(model_folder, tmp_path):
    made(model_folder, tmp_path / "plain.mp4")
    made(model_folder, tmp_path / "marked.mp4", mark=True)
    change = np.abs(pictures(tmp_path / "plain.mp4").astype(int) - pictures(tmp_path / "marked.mp4"))
    assert (change[:, 20:, :].max(axis=(1, 2, 3)) > 60).all() and change[:, :16].mean() < 4


def test_a_singer_is_heard_without_the_music(model_folder, tmp_path):
    """The frames are those of the voice alone, the video's sound is the whole."""
    loaded = load_pipeline(model_folder / "model", CPU)
    voice = read_sound(model_folder / "voice.wav")
    music = 0.3 * np.sin(np.arange(len(voice)) * 0.2).astype(np.float32)
    write_sound(tmp_path / "song.wav", voice + music)
    wanted = request(model_folder, tmp_path / "song.mp4", audio=tmp_path / "song.wav")
    generate(loaded, wanted, separate=lambda song: song - music)
    sung = pictures(tmp_path / "song.mp4").astype(int)
    made(model_folder, tmp_path / "voice.mp4")
    generate(loaded, wanted)
    alone, with_music = (np.abs(sung - pictures(tmp_path / name)).mean() for name in ("voice.mp4", "song.mp4"))
    assert alone < with_music / 3
    assert np.abs(read_sound(tmp_path / "song.mp4")).mean() > 1.5 * np.abs(voice).mean()
    with pytest.raises(ValueError, match="of the sound's"):
        generate(loaded, wanted, separate=lambda song: song[1:])


def test_the_command_offers_every_scheduler():
    assert get_args(model.SchedulerName) == get_args(sampling.SchedulerName)


def test_a_speed_at_which_heads_jitter_is_told(model_folder, tmp_path):
    notes = []
    loaded = load_pipeline(model_folder / "model", CPU)
    for speed in ("1.4", "1.6"):
        generate(loaded, request(model_folder, tmp_path / "v.mp4", speed=speed), None, notes.append)
    assert len(notes) == 1 and "--speed 1.6" in notes[0]


def test_of_several_faces_one_must_be_chosen(model_folder, two_faces):
    with pytest.raises(UserError, match=r"shows 2 faces \(1 at 0\.\d\d,.*; 2 at 0\.[5-9]\d,.*--face N.*--crop"):
        frame_portrait(two_faces, 64, "auto", Choice())
    left, right = (frame_portrait(two_faces, 64, "auto", Choice(face)).portrait.picture for face in (1, 2))
    assert (left - right.flip(-1)).abs().mean() < 0.05 < (left - right).abs().mean()
    cut = frame_portrait(two_faces, 64, "auto", Choice(crop=(0.5, 0, 1, 1))).portrait.picture
    assert (cut - right).abs().mean() < 0.05
    with pytest.raises(UserError, match=r"--face 3.*shows 2"):
        frame_portrait(two_faces, 64, "auto", Choice(3))
    with pytest.raises(UserError, match="--crop"):
        frame_portrait(two_faces, 64, "auto", Choice(crop=(0.5, 0, 0.5, 1)))


def test_the_face_moves_in_the_whole_picture(model_folder, two_faces, tmp_path):
    """At the square's middle the frame, outside it the picture; and the other face keeps still."""
    whole = read_picture(two_faces)
    height, width = whole.shape[:2]
    wanted = {"portrait": two_faces, "choice": Choice(2)}
    made(model_folder, tmp_path / "square.mp4", **wanted)
    made(model_folder, tmp_path / "whole.mp4", paste=True, **wanted)
    square, pasted = pictures(tmp_path / "square.mp4"), pictures(tmp_path / "whole.mp4").astype(int)
    assert pasted.shape == (50, height // 2 * 2, width // 2 * 2, 3)
    still = np.abs(pasted - whole[: height // 2 * 2, : width // 2 * 2])
    assert still[:, :, : width // 2 - 8].mean() < 4 < still[:, :, width // 2 :].mean()
    place = frame_portrait(two_faces, 32, "auto", Choice(2)).square
    face = pasted[:, place.y : place.y + place.side, place.x : place.x + place.side].astype(np.uint8)
    small = np.stack([cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA) for one in face])
    inner = slice(8, 24)
    original = cv2.resize(
        whole[place.y :, place.x :][: place.side, : place.side], (32, 32), interpolation=cv2.INTER_AREA
    )
    near, far = (np.abs(small.astype(int) - one)[:, inner, inner].mean() for one in (square, original))
    assert near < 10 < far / 2


def test_half_a_face_is_refused(model_folder, tmp_path):
    whole = read_picture(model_folder / "portrait.png")
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
        framed = frame_portrait(real_data / name, 64, "auto", Choice()).portrait
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


def test_a_mask_is_where_it_is_white_and_must_be_somewhere(model_folder, tmp_path):
    """Drawn with a white brush on a transparent layer, too."""
    portrait = model_folder / "portrait.png"
    width, height = Image.open(portrait).size
    layer = np.zeros((height, width, 4), np.uint8)
    layer[: height // 2] = 255
    Image.fromarray(layer).save(tmp_path / "half.png")
    mask = frame_portrait(portrait, 32, str(tmp_path / "half.png"), Choice()).portrait.mask
    assert 0.2 < mask.mean() < 0.8
    Image.fromarray(np.zeros_like(layer)).save(tmp_path / "none.png")
    with pytest.raises(UserError, match="nowhere"):
        frame_portrait(portrait, 32, str(tmp_path / "none.png"), Choice())


def test_a_curve_is_numbers(tmp_path):
    (tmp_path / "curve.csv").write_text("0,0.5\nnan,1\n")
    with pytest.raises(UserError, match="in numbers"):
        parse_speed(str(tmp_path / "curve.csv"), 10, 25)
