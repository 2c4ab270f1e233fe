"""The training spec: every setting that affects what an attempt computes.

Defaults are filled in when a spec is read, so a spec is complete, and equal specs train equal weights. An invalid spec
is refused with the field, its value and the accepted values.
"""

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from worker.architecture import ARCHITECTURES, ModelName
from worker.normalizations.grouping import GroupedNormalizationSpec
from worker.normalizations.registry import Normalization
from worker.recipes import RECIPES, RecipeName, fill_defaults
from worker.validation import StrictModel

DatasetName = Literal["cifar10", "synthetic"]
DATASET_SIZES: dict[DatasetName, tuple[int, int]] = {"cifar10": (50_000, 10_000), "synthetic": (10_000, 2_000)}
"""Number of training and of test images of each dataset."""
CLASS_NAMES: dict[DatasetName, tuple[str, ...]] = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "synthetic": tuple(f"class {number}" for number in range(10)),
}
MOST_EPOCHS = 10_000


class SGD(StrictModel):
    """Stochastic gradient descent with momentum (torch.optim.SGD)."""

    type: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0, description="at the reference batch size, before the schedule")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="weight of the previous update")
    nesterov: bool = Field(default=False, description="use Nesterov momentum")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2 penalty on all parameters, also of normalizations")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise PydanticCustomError("nesterov", "nesterov is true, but momentum is 0: give a momentum above 0")
        return self


class Adam(StrictModel):
    """Adam (Kingma & Ba 2014, torch.optim.Adam)."""

    type: Literal["adam"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, description="at the reference batch size, before the schedule")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="decay rates of the averages of the gradient and of its square"
    )
    eps: float = Field(default=1e-8, gt=0, description="added to the denominator of the update")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty on all parameters")


Optimizer = Annotated[SGD | Adam, Field(discriminator="type")]


class LearningRateScaling(StrictModel):
    """How the learning rate depends on the batch size.

    `linear` multiplies it by batch_size × num_workers / reference_batch_size (Goyal et al. 2017, section 2.1), so that
    n workers with batch size b train as one worker with batch size n·b. Wu & He's 0.1 × N/32 for N images on each of 8
    workers is `reference_batch_size` 256 with `num_workers` 8.
    """

    rule: Literal["none", "linear"] = Field(
        default="linear", description="linear: proportional to the images per step; none: constant"
    )
    reference_batch_size: int = Field(
        default=32, ge=1, description="images per step, of all workers, that learning_rate is given for"
    )


class _Schedule(StrictModel):
    fixed_to_length: ClassVar[str | None] = None
    """Why a training with this schedule cannot go on after its last epoch; None: it can."""

    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs over which the rate rises linearly from 0")


class ConstantSchedule(_Schedule):
    """A constant learning rate."""

    type: Literal["constant"] = "constant"


class MultistepSchedule(_Schedule):
    """A learning rate that is multiplied by `gamma` at each milestone."""

    fixed_to_length = "its milestones are fractions of the whole training"

    type: Literal["multistep"] = "multistep"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.5, 0.75), description="fractions of the training, in increasing order"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="factor at each milestone")

    @field_validator("milestones")
    @classmethod
    def _increasing(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(a >= b for a, b in pairwise(milestones)):
            raise PydanticCustomError("milestones", "milestones must increase, as in [0.5, 0.75]")
        return milestones


class CosineSchedule(_Schedule):
    """A learning rate that falls along half a cosine to `final_fraction` of it (Loshchilov & Hutter 2016)."""

    fixed_to_length = "its rate falls over the whole training"

    type: Literal["cosine"] = "cosine"
    final_fraction: float = Field(default=0.0, ge=0, le=1, description="last learning rate divided by the first")


Schedule = Annotated[ConstantSchedule | MultistepSchedule | CosineSchedule, Field(discriminator="type")]


class Dataset(StrictModel):
    """The training images and the evaluation images."""

    name: DatasetName = Field(default="cifar10", description="synthetic: generated images for trials, not for results")
    train_limit: int | None = Field(default=None, ge=1, description="training images to use, class-balanced; null: all")
    test_limit: int | None = Field(
        default=None,
        ge=0,
        description="test images to use, class-balanced; null: all; 0: none, which needs a holdout",
    )
    holdout: int = Field(
        default=0,
        ge=0,
        description="training images that are not trained on, and on which every epoch is evaluated beside the test "
        "images: the best epoch is chosen on them",
    )
    standardization: Literal["channel", "symmetric"] = Field(
        default="channel",
        description="channel: zero mean and unit variance per channel; symmetric: pixels in [-1, 1]",
    )

    @model_validator(mode="after")
    def _enough_images(self) -> Self:
        num_train, num_test = DATASET_SIZES[self.name]
        for field, limit, size in (
            ("train_limit", self.train_limit, num_train),
            ("test_limit", self.test_limit, num_test),
        ):
            if limit is not None and limit > size:
                raise PydanticCustomError(
                    "dataset",
                    "{field} is {limit}, but {name} has {size} images: give at most {size}, or null for all",
                    {"field": field, "limit": limit, "name": self.name, "size": size},
                )
        available = self.train_limit or num_train
        if self.holdout >= available:
            raise PydanticCustomError(
                "dataset",
                "holdout is {holdout}, which leaves none of {available} training images: give at most {most}",
                {"field": "holdout", "holdout": self.holdout, "available": available, "most": available - 1},
            )
        if self.test_limit == 0 and not self.holdout:
            raise PydanticCustomError(
                "dataset",
                "test_limit is 0, which leaves no image to evaluate: give at least 1, null for all, or a holdout",
                {"field": "test_limit"},
            )
        return self

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return (self.train_limit or DATASET_SIZES[self.name][0]) - self.holdout

    @property
    def num_test(self) -> int:
        """Number of test images that every epoch is evaluated on."""
        return DATASET_SIZES[self.name][1] if self.test_limit is None else self.test_limit

    @property
    def num_eval(self) -> int:
        """Number of images that every epoch is evaluated on: the test images and the held-out ones."""
        return self.num_test + self.holdout


class Checkpointing(StrictModel):
    """When checkpoints are taken and which are kept; the best and the latest one are always kept."""

    every_epochs: int = Field(default=1, ge=1, description="epochs between checkpoints; one follows the last epoch")
    every_s: float | None = Field(default=None, gt=0, description="seconds between checkpoints in an epoch; null: none")
    keep_last: int = Field(default=2, ge=1, description="number of latest checkpoints to keep, besides the best")


class Telemetry(StrictModel):
    """Statistics of the normalization layers and of the gradient, measured without an effect on the training."""

    every_epochs: int = Field(default=1, ge=1, description="epochs between measurements; one follows the last epoch")


class WeightAverage(StrictModel):
    """Evaluates an exponential moving average of the weights instead of the weights of the last step (Polyak 1992)."""

    decay: float = Field(
        default=0.999, gt=0, lt=1, description="share of the average that a step keeps; it begins at the first weights"
    )


class TrainingSpec(StrictModel):
    """One training, from the initialization to the last epoch."""

    recipe: RecipeName | None = Field(default=None, description="publication that gives the default settings")
    model: ModelName = Field(default="resnet20", description="architecture of the network")
    dataset: Dataset = Field(default_factory=Dataset)
    normalization: Normalization
    init_from: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="id of the checkpoint whose weights the training begins with; null: those that the seed gives",
    )
    batch_size: int = Field(ge=1, le=50_000, description="images per step and worker (the paper's images per GPU)")
    epochs: int = Field(default=30, ge=1, le=MOST_EPOCHS, description="passes over the training images")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="seed of the initialization, the order and the augmentation",
    )
    optimizer: Optimizer = Field(default_factory=SGD)
    learning_rate_scaling: LearningRateScaling = Field(default_factory=LearningRateScaling)
    schedule: Schedule = Field(default_factory=MultistepSchedule)
    augmentation: Literal["crop_flip", "none"] = Field(
        default="crop_flip", description="crop_flip: random crops of the image padded by 4 pixels, random mirroring"
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of each training label that is spread evenly over all classes (Szegedy et al. 2016)",
    )
    ema: WeightAverage | None = Field(
        default=None, description="average of the weights over the steps, which is evaluated and kept; null: none"
    )
    drop_last: bool = Field(default=True, description="skip the last batch of an epoch if it is smaller")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="format of activations; auto: bfloat16 on GPUs that support it, and on CPUs with AVX512-BF16 or "
        "AMX where it is faster, otherwise float32; one for all jobs of an experiment",
    )
    num_workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="workers that train together, each with batch_size images per step",
    )
    checkpoint: Checkpointing = Field(default_factory=Checkpointing)
    telemetry: Telemetry | None = Field(
        default=None, description="statistics of the normalization layers and of the gradient; null: not measured"
    )
    deterministic: bool = Field(default=False, description="bit-identical results on a GPU; on a CPU they always are")

    @model_validator(mode="before")
    @classmethod
    def _apply_recipe(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(recipe := data.get("recipe"), str) and recipe in RECIPES:
            return fill_defaults(data, RECIPES[recipe])
        return data

    @field_validator("normalization")
    @classmethod
    def _groups_divide_channels(cls, normalization: Normalization, info: ValidationInfo) -> Normalization:
        model = info.data.get("model")
        if not isinstance(normalization, GroupedNormalizationSpec) or model is None:
            return normalization
        field = "num_groups" if normalization.num_groups is not None else "channels_per_group"
        value = getattr(normalization, field)
        feature_maps = ARCHITECTURES[model].feature_maps()
        for feature_map in feature_maps:
            if feature_map.num_channels % value:
                narrowest = min(m.num_channels for m in feature_maps)
                accepted = [n for n in range(1, narrowest + 1) if all(m.num_channels % n == 0 for m in feature_maps)]
                raise PydanticCustomError(
                    "groups",
                    "{field} is {value}, which does not divide the {channels} channels of {model}'s layer {layer}: "
                    "give one of {accepted}",
                    {
                        "field": field,
                        "value": value,
                        "channels": feature_map.num_channels,
                        "model": model,
                        "layer": feature_map.layer,
                        "accepted": ", ".join(map(str, accepted)),
                    },
                )
        return normalization

    @field_validator("batch_size")
    @classmethod
    def _fits_the_dataset(cls, batch_size: int, info: ValidationInfo) -> int:
        dataset = info.data.get("dataset")
        if dataset is not None and batch_size > dataset.num_train:
            raise PydanticCustomError(
                "batch_size",
                "batch_size is {batch_size}, larger than the {num_train} training images: "
                "give a batch_size of at most {num_train}, or more images",
                {"batch_size": batch_size, "num_train": dataset.num_train},
            )
        return batch_size

    @field_validator("num_workers")
    @classmethod
    def _same_batch_for_every_worker(cls, num_workers: int, info: ValidationInfo) -> int:
        normalization = info.data.get("normalization")
        if num_workers > 1 and normalization is not None and normalization.not_distributed:
            raise PydanticCustomError(
                "num_workers",
                "num_workers is {num_workers}, but {type} trains on one worker only, because {reason}: "
                "give num_workers 1, or another normalization",
                {"num_workers": num_workers, "type": normalization.type, "reason": normalization.not_distributed},
            )
        dataset, batch_size = info.data.get("dataset"), info.data.get("batch_size")
        if num_workers == 1 or dataset is None or batch_size is None:
            return num_workers
        if info.data.get("drop_last") is False:
            raise PydanticCustomError(
                "num_workers",
                "num_workers is {num_workers}, but drop_last is false: all batches must be of equal size, so give "
                "drop_last true, or num_workers 1",
                {"num_workers": num_workers},
            )
        if num_workers * batch_size > dataset.num_train:
            raise PydanticCustomError(
                "num_workers",
                "num_workers is {num_workers}, whose batches of {batch_size} exceed the {num_train} training images: "
                "give at most {most} workers, a smaller batch_size, or more images",
                {
                    "num_workers": num_workers,
                    "batch_size": batch_size,
                    "num_train": dataset.num_train,
                    "most": dataset.num_train // batch_size,
                },
            )
        return num_workers

    @property
    def global_batch_size(self) -> int:
        """Images per optimizer step, of all workers."""
        return self.batch_size * self.num_workers

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        full, rest = divmod(self.dataset.num_train, self.global_batch_size)
        return full if self.drop_last or not rest else full + 1

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the training."""
        return self.steps_per_epoch * self.epochs

    @property
    def scaled_learning_rate(self) -> float:
        """Learning rate at this batch size and number of workers, before the schedule."""
        rate = self.optimizer.learning_rate
        scaling = self.learning_rate_scaling
        return rate * self.global_batch_size / scaling.reference_batch_size if scaling.rule == "linear" else rate
