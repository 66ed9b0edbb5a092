"""The ablations of the DiffIML paper (its Tables 6 and 7): what varies, and what has to be trained.

Steps and ensemble vary on given weights. The others are properties of weights, so each of their
arms is a training run of its own with one key of the preset changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from imlctl.errors import UsageError

STEPS = (1, 5, 8, 10)
MEMBERS = (1, 3, 5, 10)
SEEDS = 3


@dataclass(frozen=True, slots=True)
class Trained:
    """An ablation whose arms are weights.

    Attributes:
        key: What to change in the preset.
        values: What to set it to, in words.
    """

    key: str
    values: str


TRAINED = {
    "prior": Trained("prior in [diffusion]", "0, 0.1, 0.3 and 0.5"),
    "edge": Trained("mask_weight in [diffusion]", "1, which leaves the edge map out, and 0.2"),
    "encoder": Trained(
        "encoder in [diffusion]",
        "resnet50, resnet101, mit-b2, mit-b3, mit-b4, efficient-rwkv-small",
    ),
    "init": Trained(
        "backbone in [diffusion], or init for an efficient-rwkv encoder",
        "nothing, which starts at random, and a file of ImageNet weights",
    ),
}
KINDS = ("steps", "ensemble", *TRAINED)


def check(what: str, weights: int) -> None:
    """Refuse an ablation that cannot be run with so many weights.

    Raises:
        UsageError: Its name is unknown, or the number is wrong; says what to train.
    """
    if what not in KINDS:
        raise UsageError(
            f"there is no ablation of {what!r}", source="--ablate", remedy=f"Use {_listed(KINDS)}."
        )
    if what in TRAINED and weights < 2:
        arm = TRAINED[what]
        raise UsageError(
            f"the ablation of {what} compares weights, at least two",
            source="--ablate",
            remedy=f"For each arm run imlctl train PRESET with one change, {arm.key}: {arm.values}."
            " Then give each result: --weights A --weights B.",
        )
    if what not in TRAINED and weights > 1:
        raise UsageError(f"the ablation of {what} is over one file of weights", source="--ablate")


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
