"""Every op, one file each (families of one-liners share one); `streamrnn` imports them by name."""

from .op import REGISTRY, Op

__all__ = ["REGISTRY", "Op"]
