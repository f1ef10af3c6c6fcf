"""Random weights in every public layout, loaded into a small EMO of SD 1.5's shape."""

import pickle
import re

import pytest
import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from safetensors.torch import save_file

from emo_core.model import pretrained
from emo_core.model.emo import build
from emo_core.model.pretrained import WeightsError, load_vae, read_weights, take_motion, take_unet
from tests.emo_core.conftest import BUCKETS, awake

WIDTHS = (8, 16, 16, 16)


@pytest.fixture
def shape(config):
    """SD 1.5's four resolutions with a handful of channels."""
    update = {"latent_channels": 4, "layers_per_block": 2, "channels": WIDTHS, "attention": (True, True, True, False)}
    return config.model_copy(update=update)


@pytest.fixture
def model(shape):
    torch.manual_seed(1)
    return build(shape, 3, BUCKETS).eval()


@pytest.fixture
def unet(shape):
    torch.manual_seed(2)
    return UNet2DConditionModel(
        block_out_channels=WIDTHS,
        norm_num_groups=shape.norm_groups,
        attention_head_dim=shape.heads,
        cross_attention_dim=12,
    ).eval()


@pytest.fixture
def adapter(shape):
    torch.manual_seed(3)
    adapter = MotionAdapter(
        block_out_channels=WIDTHS,
        motion_num_attention_heads=shape.temporal_heads,
        motion_norm_num_groups=shape.norm_groups,
        use_motion_mid_block=True,
    )
    return awake(adapter).eval()


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
ENDS |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}


def original_unet(weights):
    """Stable Diffusion's own names for diffusers' names."""

    def renamed(name):
        stem, _, kind = name.rpartition(".")
        if stem in ENDS:
            return f"{ENDS[stem]}.{kind}"
        side, level, sort, index, rest = re.fullmatch(r"(\w+)_blocks?(?:\.(\d))?\.(\w+)\.(\d)\.?(.*)", stem).groups()
        if side == "mid":
            place = f"middle_block.{2 * int(index) if sort == 'resnets' else 1}"
        elif sort == "downsamplers":
            return f"input_blocks.{3 * int(level) + 3}.0.op.{kind}"
        elif sort == "upsamplers":
            return f"output_blocks.{3 * int(level) + 2}.{1 if level == '0' else 2}.conv.{kind}"
        else:
            number = 3 * int(level) + int(index) + (side == "down")
            place = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{0 if sort == 'resnets' else 1}"
        return f"{place}.{RESNET[rest] if sort == 'resnets' else rest}.{kind}"

    return {f"model.diffusion_model.{renamed(name)}": value for name, value in weights.items()}


def original_motion(weights):
    """AnimateDiff's own names, with its position codes and the prefix of its training."""

    def renamed(name):
        name = re.sub(r"(motion_modules\.\d\.)", r"\1temporal_transformer.", name)
        for ours, theirs in (("norm1", "norms.0"), ("norm2", "norms.1"), ("norm3", "ff_norm")):
            name = name.replace(f".{ours}.", f".{theirs}.")
        return name.replace(".attn1.", ".attention_blocks.0.").replace(".attn2.", ".attention_blocks.1.")

    own = {f"module.{renamed(name)}": value for name, value in weights.items() if "pos_embed" not in name}
    codes = {name: value for name, value in weights.items() if "pos_embed" in name}
    blocks = {re.sub("pos_embed.pe", "attention_blocks.0.pos_encoder.pe", n): v for n, v in codes.items()}
    return own | {
        f"module.{name.replace('.transformer_blocks', '.temporal_transformer.transformer_blocks')}": value
        for name, value in blocks.items()
    }


def write(layout, module, tmp_path, original):
    """The module's weights in one of the public layouts; returns what a user would point to."""
    weights = {name: value.contiguous() for name, value in module.state_dict().items()}
    path = tmp_path / layout
    if layout == "folder":
        module.save_pretrained(path)
    elif layout == "folder.fp16":
        module.half().save_pretrained(path, variant="fp16")
        module.float()
    elif layout == "single.safetensors":
        save_file(weights, path)
    elif layout == "original.safetensors":
        save_file({name: value.clone() for name, value in original(weights).items()}, path)
    elif layout == "original.ckpt":
        torch.save({"state_dict": original(weights), "epoch": 3}, path)
    return path


LAYOUTS = ["folder", "folder.fp16", "single.safetensors", "original.safetensors"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stable_diffusion_goes_into_backbone_and_reference_net(layout, model, unet, tmp_path):
    take_unet(model, write(layout, unet, tmp_path, original_unet))
    given = unet.state_dict()
    near = 1e-3 if layout == "folder.fp16" else 0.0
    for part in (model.backbone, model.reference_net):
        taken = 0
        for name, value in part.state_dict().items():
            if any(new in name for new in ("motion_modules", "_audio")):
                continue
            source = name
            if ".transformer_blocks.0." in name:
                source = name.replace(".attn2.", ".attn1.").replace(".norm2.", ".norm1.")
            assert torch.allclose(value, given[source], atol=near, rtol=0), name
            taken += 1
        assert taken > 300


@pytest.mark.parametrize("layout", [*LAYOUTS, "original.ckpt"])
def test_animatediff_goes_into_the_temporal_modules(layout, model, adapter, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    take_motion(model, write(layout, adapter, tmp_path, original_motion))
    near = 2e-3 if layout == "folder.fp16" else 0.0
    for name, value in adapter.state_dict().items():
        assert torch.allclose(model.backbone.state_dict()[name], value, atol=near, rtol=0), name
    for name, value in model.state_dict().items():
        if "motion_modules." not in name or "_speed." in name:
            assert torch.equal(value, before[name]), name
    maps = torch.randn(2 * 5, WIDTHS[1], 4, 4)
    theirs = adapter.down_blocks[1].motion_modules[0](maps, num_frames=5)
    ours = model.backbone.down_blocks[1].motion_modules[0]
    ours.block.attn_speed = None  # a speed layer that is asleep has no part in it
    assert torch.allclose(ours(maps, torch.zeros(2, WIDTHS[1], 0, 4, 4)), theirs, atol=10 * near + 1e-5)


def test_a_new_reference_attention_is_the_blocks_own_self_attention(model, unet, tmp_path):
    """With its own tokens as the reference, it reads them as its self-attention does."""
    take_unet(model, write("folder", unet, tmp_path, original_unet))
    block = model.backbone.mid_block.attentions[0].block
    for kind in ("to_q", "to_k", "to_v"):
        assert torch.equal(getattr(block.attn1, kind).weight, getattr(block.attn2, kind).weight)
    assert torch.equal(block.attn1.to_out[0].weight, block.attn2.to_out[0].weight)
    assert torch.equal(block.norm1.weight, block.norm2.weight)


@pytest.mark.parametrize("change", ["missing", "unexpected", "of another shape"])
@pytest.mark.parametrize("which", ["unet", "adapter"])
def test_weights_that_do_not_fit_are_named_and_change_nothing(which, change, model, tmp_path, request):
    weights = dict(request.getfixturevalue(which).state_dict())
    name = next(key for key in weights if key.startswith("mid_block.") and key.endswith(".weight") and ".attn1." in key)
    if change == "unexpected":
        weights["mid_block.surprise.weight"] = torch.zeros(1)
    elif change == "missing":
        del weights[name]
    else:
        weights[name] = torch.zeros(2, 2)
    save_file(weights, tmp_path / "w.safetensors")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=change) as error:
        (take_unet if which == "unet" else take_motion)(model, tmp_path / "w.safetensors")
    assert ("mid_block.surprise.weight" if change == "unexpected" else name) in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Surprise:
    """What a hostile pickle does when it is opened."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a file was run')",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1), "more": Surprise()}, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match="refused"):
        read_weights(tmp_path / "w.ckpt")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"more": Surprise()}, protocol=2))
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "plain.bin")


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("gone.safetensors", None, "no such file"),
        ("text.safetensors", b"not weights", "cannot be read"),
        ("empty.ckpt", b"", "cannot be read"),
        ("w.onnx", b"other", "not a file of weights"),
        ("folder", None, "holds no"),
    ],
)
def test_what_is_no_file_of_weights_is_named(name, content, cause, tmp_path):
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=cause) as error:
        read_weights(tmp_path / name)
    assert name in str(error.value)


SMALL_VAE = {
    "block_out_channels": (4, 4, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 4,
}


def original_vae(weights):
    """The VAE's names in an original Stable Diffusion file; its attention is 1x1 convolutions there."""

    def renamed(name):
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in name:
            for ours, theirs in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                name = name.replace(f".{ours}.", f".{theirs}.")
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
        return f"first_stage_model.{name}"

    def shaped(name, value):
        return value[..., None, None] if re.search(r"attentions\.0\.to_\w+(\.0)?\.weight", name) else value

    return {renamed(name): shaped(name, value) for name, value in weights.items()}


@pytest.mark.parametrize("layout", ["single.safetensors", "original.safetensors", "original.ckpt"])
def test_a_vae_comes_out_of_a_single_file(layout, tmp_path, monkeypatch):
    torch.manual_seed(4)
    vae = AutoencoderKL(**SMALL_VAE).eval()
    monkeypatch.setattr(pretrained, "SD15_VAE", SMALL_VAE)
    loaded = load_vae(write(layout, vae, tmp_path, original_vae))
    pictures = torch.randn(1, 3, 16, 16)
    assert torch.equal(loaded.encode(pictures).latent_dist.mean, vae.encode(pictures).latent_dist.mean)
    assert torch.equal(loaded.decode(torch.ones(1, 4, 2, 2)).sample, vae.decode(torch.ones(1, 4, 2, 2)).sample)
