"""The numbers of the three stages. A run is a function's return value; `tiny` scales it to a laptop (EMO 3.3, 4.1)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from emo_core.model.config import ModelConfig, Preset


class Recipe(BaseModel):
    """All numbers of one training run that are not the model's.

    Not in the paper: everything below `learning_rate`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Literal[1, 2, 3]
    preset: Preset = "sd15"
    steps: int = Field(gt=0)
    batch: int = Field(gt=0, description="samples per optimiser step, however many workers share it")
    micro_batch: int = Field(gt=0, description="samples per forward pass")
    learning_rate: float = Field(gt=0)
    one_cycle: bool = Field(default=False, description="warm up over a tenth, then fall to zero along a cosine")
    beta2: float = Field(default=0.999, gt=0, lt=1, description="AdamW's memory of squared gradients")
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    train_spatial: bool = Field(default=False, description="in stage 2: go on training what stage 1 trained, too")
    train_audio: bool = Field(
        default=False, description="in stage 3: go on training the audio layers, which the paper advises against (3.3)"
    )
    gradient_checkpointing: bool = Field(default=True, description="compute activations twice, to hold few of them")
    bf16: bool = Field(
        default=True, description="compute in bfloat16 where torch's autocast does; weights stay float32"
    )
    noise_power: float = Field(
        default=1.0,
        gt=0,
        description="timesteps are uniform numbers to this power: below 1, strong noise comes more often",
    )
    min_snr: float | None = Field(default=None, description="gamma of min-SNR weighting; None for equal weights")
    mouth_weight: float = Field(default=1.0, ge=1, description="how much more an error in the lower face counts")
    drop_all: float = Field(default=0.05, description="share of samples without reference and audio, for guidance")
    drop_audio: float = Field(default=0.05, description="share of samples without audio")
    zero_motion: float = Field(default=0.2, description="share of samples without motion frames: a video's first clip")
    region: Literal["clip", "window"] = Field(
        default="clip", description="where the face may be: the union of its boxes in the whole clip, or in the window"
    )
    grow_mask: float = Field(default=0.5, description="the face region is enlarged by up to this share of its size")
    windows: int = Field(default=4, gt=0, description="drawn from a clip each time it is read")
    keep: tuple[str, ...] = Field(default=(), description="only clips that pass these thresholds: blur<0.5")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="the model is a running mean of the trained weights; None: the last ones"
    )
    compiled: bool = Field(default=False, description="torch.compile makes Backbone and ReferenceNet faster first")
    seed: int = 0
    checkpoint_every: int = Field(default=500, gt=0)
    preview_every: int = Field(default=1000, gt=0)
    validate_every: int = Field(default=500, gt=0)
    validation: int = Field(default=32, ge=0, description="samples of held-out people, always the same ones")

    def window(self, config: ModelConfig) -> tuple[int, int]:
        """Frames of a sample, and motion frames before them."""
        return (1, 0) if self.stage == 1 else (config.frames, config.motion_frames)


def stage1_image() -> Recipe:
    """Images: Backbone, ReferenceNet and Face Locator; the reference is drawn from the same clip."""
    # A window is a single picture: a reading has to give more of them to be worth it.
    return Recipe(stage=1, steps=30_000, batch=48, micro_batch=4, learning_rate=1e-5, ema_decay=0.999, windows=8)


def stage2_video() -> Recipe:
    """Video: temporal modules and audio layers, f frames after n motion frames."""
    return Recipe(stage=2, steps=30_000, batch=4, micro_batch=1, learning_rate=1e-5, ema_decay=0.999)


def stage3_speed() -> Recipe:
    """Speed: temporal modules and speed layers; the audio layers are not trained, which would weaken them."""
    return Recipe(stage=3, steps=10_000, batch=4, micro_batch=1, learning_rate=1e-5, ema_decay=0.999)


def stage_recipe(stage: int, preset: Preset = "sd15") -> Recipe:
    """The paper's recipe of a stage, or its small one."""
    recipe = {1: stage1_image, 2: stage2_video, 3: stage3_speed}[stage]()
    return tiny(recipe) if preset == "tiny" else recipe


def tiny(recipe: Recipe) -> Recipe:
    """The same stage for `emo_core.model.config.tiny()`: from random weights to a talking face in minutes on a CPU."""
    steps = {1: 1300, 2: 350, 3: 40}[recipe.stage]
    rate = {1: 4e-3, 2: 1e-3, 3: 3e-4}[recipe.stage]
    # The mouth is a hundredth of the picture: in an even loss, what the voice explains is lost in what it does not.
    weight = {1: 1.0, 2: 8.0, 3: 8.0}[recipe.stage]
    # Two micro-batches, because two cores are what a small machine has.
    batch = {1: 12, 2: 4, 3: 4}[recipe.stage]
    return recipe.model_copy(
        update={
            "preset": "tiny",
            "steps": steps,
            "batch": batch,
            "micro_batch": batch // 2,
            "learning_rate": rate,
            # With the usual 0.999 the squared gradients lag behind at this rate, and the loss leaps up for hundreds of
            # steps: in one run of three the faces then stay broken.
            "beta2": 0.99,
            # Every reader of ReferenceNet's maps normalises them first, so no loss bounds their size. At the usual 0.01
            # they grew a million times in 2,000 steps; from the last of them no picture could be told any more.
            "weight_decay": 0.3,
            "gradient_checkpointing": False,
            "bf16": False,
            "min_snr": 5.0,
            "mouth_weight": weight,
            # Told nearly where the head is, a model needs not learn that from motion frames, for which minutes are too
            # short: with the clip's region the demo's r was 0.28 and not 0.58.
            "region": "window",
            "one_cycle": True,  # its falling rate does what a running mean does
            "ema_decay": None,
            "validation": 8,
            "checkpoint_every": 200,
            "preview_every": steps,
        }
    )


def patient(stage: int) -> Recipe:
    """The small recipe for who has forty minutes: long enough to learn what motion frames say.

    Not in the paper: where the noise is strongest, the layers of stage 1 have only learnt to draw a mean of all that
    may be. Told where the last frames left the head, they do not know how to draw it there, so stage 2 trains them,
    too, at a rate that all of them bear. Strong noise, where it is decided where the head goes, comes more often than
    weak noise and counts as much. The mouth counts less than in the demo, for the eyes tell whether a face is found,
    and whose it is. The region is the whole clip's, for its window's tells where the head goes, and leaves nothing for
    motion frames and speed to say; it is enlarged but little, to tell a calm clip from a lively one.
    """
    recipe = stage_recipe(stage, "tiny").model_copy(update={"steps": {1: 400, 2: 1700, 3: 350}[stage]})
    recipe = recipe.model_copy(update={"region": "clip"})
    if stage == 1:
        return recipe
    changes = {"min_snr": None, "noise_power": 0.5, "mouth_weight": 4.0, "grow_mask": 0.2}
    changes["learning_rate"] = {2: 3e-3, 3: 2e-3}[stage]
    return recipe.model_copy(update={**changes, "train_spatial": stage == 2})
