"""Cost of a forward pass: parameters and multiply-accumulates, part by part.

Counted by torch's `FlopCounterMode`, two operations each: matrix products, convolutions, the WKV.
Norms, activations and interpolation count nothing, as in the literature. DiffIML's paper counts one
call of the denoiser for each member; here all are counted, and the paper's way is given beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from imlctl.core.model import Model, Parts

MIX_TRANSFORMER: Parts = {
    f"stage {i + 1}": (f"patch_embeddings.{i}", f"block.{i}", f"layer_norm.{i}") for i in range(4)
}

_WKV = "bi_wkv"  # in the operator's name


def count_model(model: Model, size: int, *, steps: int, members: int) -> dict[str, Any]:
    """Count one prediction of a model of ours, without computing it: on an empty copy."""
    empty = copy.deepcopy(model).to("meta")
    shape = empty.noise_shape(size, size)
    noise = None if shape is None else torch.empty(members, *shape, device="meta")
    return count(empty, size, empty.parts(), lambda image: empty(image, None, noise, steps))


def compare_counts(
    model: Model, size: int, steps: Sequence[int], members: Sequence[int]
) -> dict[str, Any]:
    """Count a model with its last settings, and each setting in both ways of counting."""
    samples = model.samples
    return {
        "way": f"N={members[-1]}, {steps[-1]} steps" if samples else "one pass",
        "cost": count_model(model, size, steps=steps[-1], members=members[-1]),
        "counts": [
            {
                "members": n,
                "steps": s,
                "all": count_model(model, size, steps=s, members=n)["macs"],
                "paper": count_model(model, size, steps=1, members=n)["macs"],
            }
            for n in (members if samples else ())
            for s in steps
        ],
    }


def count(
    model: nn.Module,
    size: int,
    parts: Mapping[str, tuple[str, ...]],
    run: Callable[[Tensor], object] | None = None,
) -> dict[str, Any]:
    """Count one forward pass over a (1, 3, size, size) picture; on ``meta`` nothing is computed.

    `parts` names the modules of each part. `run` is the pass where it takes more than the picture.
    Of the parts returned ``other`` belongs to no named one; ``wkv``, the operator's, is in them.
    """
    like = next(model.parameters())
    image = torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype)
    counter = FlopCounterMode(display=False)
    # Plain attention: the counter has no formula for the fused kernel of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        (run or model)(image)
    by_module = counter.get_flop_counts()
    root = f"{type(model).__name__}."
    ran = {name.removeprefix(root): sum(each.values()) for name, each in by_module.items()}
    wkv = sum(n for operator, n in by_module.get("Global", {}).items() if _WKV in str(operator))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    rows: list[dict[str, Any]] = []
    for part, roots in parts.items():
        held = sum(size for name, size in sizes.items() if _under(name, roots))
        # A module's count holds those of the modules it called, so only the outermost called ones
        # are summed; a list of modules is never called itself.
        inside = tuple(name for name in ran if _under(name, roots))
        outermost = (n for n in inside if not _under(n.rpartition(".")[0], inside))
        macs = sum(ran[name] for name in outermost) // 2
        rows.append({"name": part, "parameters": held, "macs": macs})
    whole = {"parameters": sum(sizes.values()), "macs": counter.get_total_flops() // 2}
    other = {key: value - sum(row[key] for row in rows) for key, value in whole.items()}
    rows += [{"name": "other", **other}] if any(other.values()) else []
    return {"size": size, "parts": rows, "wkv": wkv // 2, **whole}


def _under(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)
