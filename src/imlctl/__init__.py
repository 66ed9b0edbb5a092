"""imlctl marks the manipulated pixels of a photograph.

    import imlctl
    result = imlctl.load().localize("photo.jpg")
    result.verdict, result.probability, result.mask_png()

    for record in imlctl.scan("photos/"):
        print(record["path"], record["verdict"])

Nothing heavy is imported before it is used: `import imlctl` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imlctl import scan
    from imlctl.pipeline import Localizer, Result
    from imlctl.settings import Settings

__all__ = ["Localizer", "Result", "Settings", "__version__", "load", "scan"]

__version__ = "0.1.0"

_HOMES = {"Localizer": "pipeline", "Result": "pipeline", "Settings": "settings"}


def load(model: str = "", **settings: Any) -> Localizer:
    """Return a localizer with its weights in memory.

    Args:
        model: Name in the registry; the default one when empty.
        **settings: Fields of `imlctl.Settings` but `sampling`, whose own may be given: weights,
            device, threshold, tile, max_pixels; steps, ensemble, tta, fusion, seed.

    Raises:
        imlctl.errors.ImlctlError: A setting is not known, or the model, its weights or the device
            cannot be had.
    """
    from imlctl.pipeline import Localizer
    from imlctl.settings import Settings

    return Localizer(Settings.of(model=model, **settings))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"imlctl.{_HOMES[name]}"), name)
    if name == "scan":  # a package that can be called
        return import_module("imlctl.scan")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
