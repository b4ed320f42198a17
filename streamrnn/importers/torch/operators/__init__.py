"""What torch's operators mean, in terms of ONNX's: one file a family."""

from . import convolution, elementwise, moving, products, recurrent, reductions

__all__ = ["convolution", "elementwise", "moving", "products", "recurrent", "reductions"]
