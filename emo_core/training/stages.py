"""What each stage trains, said once (EMO 3.3, 4.1)."""

from torch import nn

from emo_core.model.emo import EMO
from emo_core.training.recipes import Recipe

AUDIO = ("attn_audio.", "norm_audio.", "audio_projection.")
TRAINED = {
    1: ("backbone.", "reference_net.", "face_locator."),
    2: ("motion_modules.", *AUDIO),
    3: ("motion_modules.", "speed_encoder."),
}
"""Parts of parameter names. Not in the paper: that stage 2 leaves the spatial layers as they are, unless it is told
to train them; the paper does not say what is frozen."""


def trained_parameters(model: EMO, recipe: Recipe) -> dict[str, nn.Parameter]:
    """The parameters that a stage trains, by name. The speed layers are inside the temporal modules."""
    parts = TRAINED[recipe.stage] + (TRAINED[1] if recipe.train_spatial else ()) + (AUDIO if recipe.train_audio else ())
    unused = _unused(model) if recipe.stage == 1 else ()
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if any(part in name for part in parts) and not name.startswith(unused)
    }


def _unused(model: EMO) -> tuple[str, ...]:
    """What no loss of stage 1 depends on: ReferenceNet behind the last place that the Backbone reads."""
    *_, (last, _) = model.reference_net.spatial_places()
    return tuple(
        f"reference_net.{last}.{part}"
        for part in ("transformer_blocks.0.ff.", "transformer_blocks.0.norm3.", "proj_out.")
    )


def freeze_all_but(model: EMO, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Let gradients flow to what the stage trains and to nothing else; return that."""
    trained = trained_parameters(model, recipe)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return trained
