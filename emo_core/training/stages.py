"""What each stage trains, said once (EMO 3.3, 4.1)."""

from torch import nn

from emo_core.model.emo import EMO

TRAINED = {
    1: ("backbone.", "reference_net.", "face_locator."),
    2: ("motion_modules.", "attn_audio.", "norm_audio.", "audio_projection."),
    3: ("motion_modules.", "speed_encoder."),
}
"""Parts of parameter names. Stage 2's frozen spatial layers are Not in the paper, which does not say what is frozen."""


def trained_parameters(model: EMO, stage: int) -> dict[str, nn.Parameter]:
    """The parameters that a stage trains, by name. The speed layers are inside the temporal modules."""
    return {
        name: parameter for name, parameter in model.named_parameters() if any(part in name for part in TRAINED[stage])
    }


def freeze_all_but(model: EMO, stage: int) -> dict[str, nn.Parameter]:
    """Let gradients flow to what the stage trains and to nothing else; return that."""
    trained = trained_parameters(model, stage)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return trained
