"""Public weights become a new EMO's: Stable Diffusion 1.5's UNet and VAE, AnimateDiff's modules (EMO 3.2, 4.1).

Layouts that are understood: diffusers' folders, a single file of diffusers' names, and the original files (Stable
Diffusion's `model.diffusion_model.…`, AnimateDiff's `….temporal_transformer.…`). Loading is all or nothing.
"""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from emo_core.model.emo import EMO

STEM = "diffusion_pytorch_model"
"""What diffusers calls the weights in a folder; `.fp16` may follow."""
SAFE, PICKLED = (".safetensors",), (".ckpt", ".bin", ".pt", ".pth")
SD15_LAYERS = {"layers_per_block": 2}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
ADDED = ("motion_modules.", ".attn_audio.", ".norm_audio.")
"""Backbone parameters, by a part of their names, that Stable Diffusion's UNet has no like of."""
TEXT = (".transformer_blocks.0.attn2.", ".transformer_blocks.0.norm2.")
"""What SD 1.5 reads the text with: not taken over (see `take_unet`)."""
OUTPUT = ("conv_norm_out.", "conv_out.")
"""The UNet's last layers, which ReferenceNet has not."""
SPEED = (".attn_speed.", ".norm_speed.")
POSITIONS = ".pos_embed.pe"
"""AnimateDiff's position code: computed, so a file may leave it out."""


class WeightsError(ValueError):
    """A file of weights cannot be read, or holds other weights than the model has."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of the one diffusers file in a folder, on the CPU. Nothing in a file is ever run.

    Raises WeightsError.
    """
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"{file}: there is no such file")
    try:
        if file.suffix in SAFE:
            return load_file(file)
        if file.suffix in PICKLED:
            # weights_only: tensors and plain containers; whatever else a pickle could do is refused.
            content = torch.load(file, map_location="cpu", weights_only=True)
            content = content.get("state_dict", content) if isinstance(content, dict) else content
            if isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values()):
                return content
            raise WeightsError(f"{file}: holds something other than named tensors")
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file}: a pickle that holds more than weights, which is refused; take .safetensors"
        ) from error
    except (OSError, EOFError, SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{file}: cannot be read, fetch it again: {str(error).partition(chr(10))[0] or type(error).__name__}"
        ) from error
    raise WeightsError(f"{file}: not a file of weights ({', '.join(SAFE + PICKLED)})")


def _file_in(folder: Path) -> Path:
    names = [f"{STEM}{precision}{ending}" for ending in SAFE + PICKLED for precision in ("", ".fp16")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder}: holds no {names[0]}; give the folder of one part (unet, vae, a motion adapter)")


def take_unet(model: EMO, path: Path) -> None:
    """Put SD 1.5's UNet into Backbone and ReferenceNet (EMO 3.2.1, 3.2.3).

    Not in the paper: reference-attention starts from the self-attention of its own block, norm included, since the
    text's keys and values are 768 wide. Raises WeightsError, and then changes nothing.
    """
    given = read_weights(path)
    if any(name.startswith("model.diffusion_model.") for name in given):
        given = convert_ldm_unet_checkpoint(given, SD15_LAYERS)
    kept = {name: value for name, value in given.items() if not _has(name, TEXT)}
    as_reference = {
        name.replace(".attn1.", ".attn2.").replace(".norm1.", ".norm2."): value
        for name, value in kept.items()
        if _has(name, (".transformer_blocks.0.attn1.", ".transformer_blocks.0.norm1."))
    }
    trunk = {name: value for name, value in kept.items() if not name.startswith(OUTPUT)}
    norms = {name: value for name, value in as_reference.items() if ".norm2." in name}
    added = {name for name in model.backbone.state_dict() if _has(name, ADDED)}
    _fill(path, [(model.backbone, kept | as_reference, added), (model.reference_net, trunk | norms, set())])


def take_motion(model: EMO, path: Path) -> None:
    """Put AnimateDiff's motion modules into the Backbone's temporal modules (EMO 3.2.4, 4.1).

    Raises WeightsError, and then changes nothing.
    """
    given = {name.removeprefix("module."): value for name, value in read_weights(path).items()}
    if any(".temporal_transformer." in name for name in given):
        given = convert_animatediff_checkpoint_to_diffusers(given)
    others = {
        name for name in model.backbone.state_dict() if "motion_modules." not in name or _has(name, (*SPEED, POSITIONS))
    }
    _fill(path, [(model.backbone, given, others)])


def load_vae(path: Path) -> AutoencoderKL:
    """The VAE in a single file: of diffusers' names, or inside an original Stable Diffusion file.

    A diffusers folder is read by `emo_core.checkpoint.load_codec`. Raises WeightsError.
    """
    given = read_weights(path)
    with torch.device("meta"):
        vae = AutoencoderKL(**SD15_VAE)
    if any(".mid.attn_1." in name for name in given):
        given = convert_ldm_vae_checkpoint(given, SD15_VAE)
    vae.to_empty(device="cpu")
    _fill(path, [(vae, given, set())])
    return vae.eval()


def _has(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)


def _fill(path: Path, parts: list[tuple[nn.Module, Mapping[str, Tensor], set[str]]]) -> None:
    """Load weights into modules, none before all fit. Each: (module, weights, names that may be missing)."""
    complaints = []
    for module, given, may_be_missing in parts:
        wanted = module.state_dict()
        missing = [name for name in wanted if name not in given and name not in may_be_missing]
        unexpected = [name for name in given if name not in wanted]
        misshapen = [
            f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
            for name in wanted
            if name in given and given[name].shape != wanted[name].shape
        ]
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
            if names:
                complaints.append(f"{what} for {type(module).__name__}: {', '.join(names)}")
    if complaints:
        raise WeightsError(f"{path}: these are other weights than the model's: {'; '.join(complaints)}")
    for module, given, _ in parts:
        module.load_state_dict({**module.state_dict(), **given})
