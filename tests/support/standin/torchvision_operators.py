"""Lets PyPI's torchvision, a CUDA build, be imported beside a CPU build of torch.

Its operators do not load there, and two of them must be declared where it is imported. For the
start of an interpreter (make puts it into .venv-timm's), so torch is looked at only then.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class Declare(MetaPathFinder):
    """Finds nothing, and declares the operators when torchvision is looked for."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            from torch import library

            if torch.version.cuda is None:
                self.declared = library.Library("torchvision", "DEF")
                for operator in OPERATORS:
                    self.declared.define(operator)
                KEPT.append(self)  # a library that is freed takes back what it declared
        return None


KEPT: list[Declare] = []
sys.meta_path.insert(0, Declare())
