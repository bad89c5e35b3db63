"""Lets a CPU torch import a torchvision that was built for CUDA.

Package indexes carry torchvision as a CUDA build only; beside a CPU torch its import dies with
`operator torchvision::nms does not exist`, and Qwen's processors import it. Declaring the two
operator schemas is enough: they are never called here. torch runs this function at the end of its
own import in every process, vLLM's and Ray's children too (entry point group `torch.backends`).
"""

from importlib import metadata


def register() -> None:
    """Declare torchvision's `nms` and `qnms` where its compiled operators cannot load."""
    import torch

    if torch.version.cuda is not None:
        return
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return
    if version.endswith("+cpu"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)  # the schemas live as long as the library object


_KEPT: list[object] = []
