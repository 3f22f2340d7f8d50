#!/usr/bin/env python3
"""Compares class maps with captum's, on models of torchvision and timm.

    python tests/benchmarks/gradcam_peers.py

It needs captum and timm. It prints the largest difference for each model, as a share of the largest value. In-place
layers are replaced for captum, which cannot differentiate through them.
"""

from __future__ import annotations

import timm
import torch
import torchvision
from captum.attr import LayerGradCam
from torch import nn

from minilearner.models.class_maps import class_maps

MODELS = {
    "torchvision resnet18": torchvision.models.resnet18,
    "torchvision densenet121": torchvision.models.densenet121,
    "torchvision mobilenet_v3_small": torchvision.models.mobilenet_v3_small,
    "timm convnext_atto": lambda: timm.create_model("convnext_atto"),
    "timm efficientnet_b0": lambda: timm.create_model("efficientnet_b0"),
    "timm vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224"),
}


def main() -> None:
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make().eval()
        for module in model.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        x, classes = torch.rand(2, 3, 224, 224), torch.tensor([3, 7])
        own = class_maps(model, x, classes)
        expected = _captum_maps(model, x, classes, own)
        difference = (own.maps - expected).abs().max() / expected.max()
        print(f"{name:32} layer {own.layer:20} {tuple(own.maps.shape[1:])}  difference {float(difference):.1e}")
        assert difference < 1e-4


def _captum_maps(model: nn.Module, x: torch.Tensor, classes: torch.Tensor, own) -> torch.Tensor:
    layer = model.get_submodule(own.layer)
    if "vit" not in type(model).__module__ and "vision_transformer" not in type(model).__module__:
        return LayerGradCam(model, layer).attribute(x, classes, relu_attributions=True)[:, 0].detach()
    return _token_maps(model, layer, x, classes, own.maps.shape[1:])


def _token_maps(model: nn.Module, layer: nn.Module, x: torch.Tensor, classes: torch.Tensor, size) -> torch.Tensor:
    """Returns the maps of tokens from torch's own gradients: captum takes tokens for channels."""
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    scores = model(x).gather(1, classes[:, None]).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(scores, kept[0])
    weights = gradient[:, 1:].mean(1, keepdim=True)
    return (weights * kept[0][:, 1:]).sum(2).relu().reshape(-1, *size).detach()


if __name__ == "__main__":
    main()
