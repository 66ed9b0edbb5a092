"""imlctl marks the manipulated pixels of a photograph.

    import imlctl
    result = imlctl.load().localize("photo.jpg")
    result.verdict, result.probability, result.mask_png()

Nothing heavy is imported before it is used: `import imlctl` costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imlctl.pipeline import Localizer, Result
    from imlctl.settings import Settings

__all__ = ["Localizer", "Result", "Settings", "__version__", "load"]

__version__ = "0.1.0"


def load(model: str = "", **settings: Any) -> Localizer:
    """Return a localizer with its weights in memory.

    Args:
        model: Name in the registry; the default one when empty.
        **settings: Fields of `imlctl.Settings`: weights, device, threshold, tile, seed, ...

    Raises:
        imlctl.errors.ImlctlError: The model, its weights or the device cannot be had.
    """
    from imlctl.pipeline import Localizer
    from imlctl.settings import Settings

    return Localizer(Settings(model=model, **settings))


def __getattr__(name: str) -> Any:
    if name == "Settings":
        from imlctl.settings import Settings

        return Settings
    if name in ("Localizer", "Result"):
        from imlctl import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
