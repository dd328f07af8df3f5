"""SEAM's network and loss through PyTorch's public modules: the baseline of `torch_comparison`.

Written from the paper and the recorded numbers, with the names of the published state dicts. It needs torch.
"""

import torch
from torch import nn
from torch.nn import functional

BLOCKS = (  # name, channels in, inside, out, stride, first dilation, dilation
    ("b2", 64, 128, 128, 2, 1, 1),
    ("b2_1", 128, 128, 128, 1, 1, 1),
    ("b2_2", 128, 128, 128, 1, 1, 1),
    ("b3", 128, 256, 256, 2, 1, 1),
    ("b3_1", 256, 256, 256, 1, 1, 1),
    ("b3_2", 256, 256, 256, 1, 1, 1),
    ("b4", 256, 512, 512, 2, 1, 1),
    *((f"b4_{i}", 512, 512, 512, 1, 1, 1) for i in range(1, 6)),
    ("b5", 512, 512, 1024, 1, 1, 2),
    ("b5_1", 1024, 512, 1024, 1, 2, 2),
    ("b5_2", 1024, 512, 1024, 1, 2, 2),
)
FROZEN = ("conv1a", "b2", "b2_1", "b2_2")


class BasicBlock(nn.Module):
    """Normalize, activate, convolve, twice; and the shortcut."""

    def __init__(self, channels_in, inside, out, stride, first_dilation, dilation):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = convolution(channels_in, inside, 3, stride, first_dilation)
        self.bn_branch2b1 = nn.BatchNorm2d(inside)
        self.conv_branch2b1 = convolution(inside, out, 3, 1, dilation)
        if channels_in != out or stride != 1:
            self.conv_branch1 = convolution(channels_in, out, 1, stride)

    def forward(self, x):
        activated = functional.relu(self.bn_branch2a(x))
        y = self.conv_branch2b1(functional.relu(self.bn_branch2b1(self.conv_branch2a(activated))))
        return y + (self.conv_branch1(activated) if hasattr(self, "conv_branch1") else x), activated


class Bottleneck(nn.Module):
    """Three convolutions with dilation 4 in the middle; the shortcut is a convolution too."""

    def __init__(self, channels_in, out):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels_in)
        self.conv_branch2a = convolution(channels_in, out // 4, 1)
        self.bn_branch2b1 = nn.BatchNorm2d(out // 4)
        self.conv_branch2b1 = convolution(out // 4, out // 2, 3, 1, 4)
        self.bn_branch2b2 = nn.BatchNorm2d(out // 2)
        self.conv_branch2b2 = convolution(out // 2, out, 1)
        self.conv_branch1 = convolution(channels_in, out, 1)

    def forward(self, x):
        activated = functional.relu(self.bn_branch2a(x))
        y = functional.relu(self.bn_branch2b1(self.conv_branch2a(activated)))
        y = functional.relu(self.bn_branch2b2(self.conv_branch2b1(y)))
        return self.conv_branch2b2(y) + self.conv_branch1(activated), activated


class TorchSEAM(nn.Module):
    """ResNet-38d with the heads of SEAM.

    Args:
        classes: foreground classes.
        width: factor on all channel counts of the backbone.
    """

    def __init__(self, classes=20, width=1.0):
        super().__init__()

        def scaled(channels):
            return max(4, round(channels * width))

        self.conv1a = convolution(3, scaled(64), 3)
        for name, *channels, stride, first_dilation, dilation in BLOCKS:
            block = BasicBlock(*(scaled(count) for count in channels), stride, first_dilation, dilation)
            self.add_module(name, block)
        self.b6 = Bottleneck(scaled(1024), scaled(2048))
        self.b7 = Bottleneck(scaled(2048), scaled(4096))
        self.bn7 = nn.BatchNorm2d(scaled(4096))
        self.fc8 = convolution(scaled(4096), classes + 1, 1)
        self.f8_3 = convolution(scaled(512), 64, 1)
        self.f8_4 = convolution(scaled(1024), 128, 1)
        self.f9 = convolution(195, 192, 1)
        for name in FROZEN:
            self.get_submodule(name).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def forward(self, x):
        """Maps and refined maps, both (batch, 1 + classes, h, w), at the features' size."""
        size = x.shape[2:]
        y = self.conv1a(x)
        for name, *_ in BLOCKS:
            y, activated = self.get_submodule(name)(y)
            if name == "b5":
                stage4 = activated
        y, stage5 = self.b6(y)
        y, _ = self.b7(y)
        cam = self.fc8(functional.relu(self.bn7(y)))
        size = cam.shape[2:]
        feature = torch.cat(
            [
                resize(x, size),
                functional.relu(self.f8_3(stage4.detach())),
                functional.relu(self.f8_4(stage5.detach())),
            ],
            dim=1,
        )
        return cam, correlate(strongest_class(cam.detach()), self.f9(feature))


def convolution(channels_in, out, size, stride=1, dilation=1):
    padding = dilation * (size // 2)
    return nn.Conv2d(channels_in, out, size, stride, padding, dilation, bias=False)


def resize(x, size):
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


def strongest_class(cam):
    """Background, and the strongest class of each pixel, in [0, 1)."""
    positive = cam.relu()
    normalized = (positive - 1e-5).relu() / (positive.amax((2, 3), keepdim=True) + 1e-5)
    foreground = normalized[:, 1:]
    strongest = foreground.amax(1, keepdim=True)
    return torch.cat([1 - strongest, foreground * (foreground == strongest)], dim=1)


def correlate(cam, feature):
    """Plain pixel correlation, with the matrix of all pairs."""
    batch, classes, height, width = cam.shape
    feature = feature.flatten(2)
    feature = feature / (feature.norm(dim=1, keepdim=True) + 1e-5)
    affinity = torch.matmul(feature.transpose(1, 2), feature).relu()
    affinity = affinity / (affinity.sum(1, keepdim=True) + 1e-5)
    return torch.matmul(cam.flatten(2), affinity).view(batch, classes, height, width)


def max_normalize(cam):
    positive = cam.relu()
    low, high = positive.amin((2, 3), keepdim=True), positive.amax((2, 3), keepdim=True)
    return (positive - low - 1e-5).relu() / (high - low + 1e-5)


def seam_loss(model, images, labels):
    """SEAM's loss with a second view of 0.3 of the size; labels are (batch, classes)."""
    size = images.shape[2:]
    small = [int(side * 0.3) for side in size]
    views = []
    for view in (images, resize(images, small)):
        views.append([resize(maps, view.shape[2:]) for maps in model(view)])
    known = torch.cat([torch.ones_like(labels[:, :1]), labels], dim=1)[:, :, None, None]
    classification = sum(
        functional.binary_cross_entropy_with_logits(cam[:, 1:].mean((2, 3)), labels) for cam, _ in views
    )
    pooling = sum(min_pooling(refined * known) for _, refined in views)
    plain, refined = zip(
        *(tuple(resize(max_normalize(maps), small) * known for maps in view) for view in views)
    )
    equivariance = (plain[0][:, 1:] - plain[1][:, 1:]).abs().mean()
    plain = [torch.cat([1 - maps[:, 1:].amax(1, keepdim=True), maps[:, 1:]], dim=1) for maps in plain]
    cross = hardest(only_strongest(plain[1]).detach() - refined[0]) + hardest(
        only_strongest(plain[0]).detach() - refined[1]
    )
    return classification / 2 + pooling / 2 + equivariance + cross


def min_pooling(refined):
    strongest = refined[:, 1:].amax(1).flatten(1)
    lowest = strongest.topk(strongest.shape[1] // 4, dim=1, largest=False).values
    return lowest.relu().sum() / lowest.numel()


def only_strongest(maps):
    foreground = maps[:, 1:]
    kept = foreground * (foreground == foreground.amax(1, keepdim=True))
    return torch.cat([maps[:, :1], kept], dim=1)


def hardest(difference):
    difference = difference.abs().flatten(1)
    return difference.topk(int(difference.shape[1] * 0.2), dim=1).values.mean()


def pamr(images, masks, iterations=10, dilations=(1, 2, 4, 8, 12, 24)):
    """Pixel-adaptive mask refinement from the paper's section 3.3, by unfolding each pixel's neighbors."""
    masks = resize(masks, images.shape[2:])

    def neighbors(x):
        found = []
        for dilation in dilations:
            padded = functional.pad(x, [dilation] * 4, mode="replicate")
            around = functional.unfold(padded, 3, dilation).unflatten(1, (x.shape[1], 9))
            found.append(torch.cat([around[:, :, :4], around[:, :, 5:]], dim=2))
        return torch.cat(found, dim=2).unflatten(-1, x.shape[2:])  # (batch, channels, neighbors, h, w)

    around, center = neighbors(images), images[:, :, None]
    deviation = torch.cat([around, *[center] * len(dilations)], dim=2).std(2, keepdim=True)
    weights = (-(around - center).abs() / (1e-8 + 0.1 * deviation)).mean(1, keepdim=True).softmax(2)
    for _ in range(iterations):
        masks = (neighbors(masks) * weights).sum(2)
    return masks
