"""Class activation maps: weighted sums of a feature map's channels, per label and view.

Notation: A (V, C, h, w) the features of a study's V views, y the logit of a label (its score before the sigmoid), g
(n, V, C, h, w) the gradients of n labels' logits with respect to A. All maps are (n, V, h, w), at least 0 (evidence
for the label; what speaks against it is cut off by the ReLU of each definition), of any scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from longview import InputError
from longview.explain.heads import Head, fusion_of, linear_weights
from longview.models.fusion import MeanFusion

_TINY = 1e-12


def gradcam(features: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 and 2).

    `ReLU(sum_k a_k A_k)` with `a_k` the mean of g over the places of a view.
    """
    return _weighted(features, gradients.mean(dim=(3, 4)))


def gradcam_plus_plus(features: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhyay et al. 2018, arXiv 1710.11063, eq. 5, 12 and 19), for the score exp(y).

    `a_k = sum_ij alpha_ij ReLU(g_ij)`, `alpha_ij = g_ij^2 / (2 g_ij^2 + sum_ab A_ab g_ij^3)`, 0 where g_ij is 0.
    """
    square = gradients.square()
    below = 2 * square + features.sum(dim=(2, 3), keepdim=True) * square * gradients
    alpha = torch.where(below.abs() > _TINY * square.amax().clamp(min=_TINY), square / below, 0)
    return _weighted(features, (alpha * gradients.relu()).sum(dim=(3, 4)))


def hirescam(features: Tensor, gradients: Tensor) -> Tensor:
    """HiResCAM (Draelos and Carin 2020, arXiv 2011.08891, eq. 5): `ReLU(sum_k g_k * A_k)`, place by place."""
    return torch.einsum("nvchw,vchw->nvhw", gradients, features).relu()


def xgradcam(features: Tensor, gradients: Tensor) -> Tensor:
    """XGrad-CAM (Fu et al. 2020, arXiv 2008.02312, eq. 8).

    Grad-CAM with `a_k = sum_ij A_k,ij / (sum_ab A_k,ab) g_ij`; 0 where a channel sums to 0.
    """
    total = features.sum(dim=(2, 3))  # (V, C)
    seen = total.abs() > 1e-6 * features.abs().sum(dim=(2, 3)).clamp(min=_TINY)
    inverse = torch.where(seen, 1 / total.where(seen, 1), 0)
    return _weighted(features, torch.einsum("nvchw,vchw->nvc", gradients, features) * inverse)


def layercam(features: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM (Jiang et al. 2021, IEEE TIP 30, eq. 5 and 6): `ReLU(sum_k ReLU(g_k) * A_k)`, place by place."""
    return torch.einsum("nvchw,vchw->nvhw", gradients.relu(), features).relu()


def eigencam(features: Tensor) -> Tensor:
    """Eigen-CAM (Muhammad and Yeasin 2020, arXiv 2008.00299, eq. 3): A projected on its first right singular vector.

    The same for every label, since it asks for none. A singular vector has no sign: the one whose projection is
    positive in sum is taken, and what is negative then is cut off.

    Returns:
        (1, V, h, w).
    """
    places = features.flatten(2).transpose(1, 2)  # (V, h w, C)
    _, _, right = torch.linalg.svd(places, full_matrices=False)
    projection = (places @ right[:, 0, :, None])[..., 0]  # (V, h w)
    sign = torch.where(projection.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    maps: Tensor = (projection * sign).relu()
    return maps.reshape(1, len(features), *features.shape[2:])


def cam(head: Head, features: Tensor, labels: Sequence[int]) -> Tensor:
    """The class activation map (Zhou et al. 2016, arXiv 1512.04150, eq. 2), without a backward pass.

    `ReLU(sum_k w_k A_k)` with w the weights of a linear head on the mean. Before the ReLU, the mean of a view's map is
    its logit less the bias. Of several views each counts as it does in the study's logit (`Head.view_weights`).

    Raises:
        InputError: For a head that is not linear on the mean of the features.
    """
    weights = linear_weights(head.network)
    if weights is None:
        raise InputError(
            "method cam: this model's head is not linear on the mean of its features, so that it has no exact class "
            "activation map; take hirescam, gradcam or layercam, or attention for a label decoder"
        )
    maps = torch.einsum("nc,vchw->nvhw", weights[list(labels)], features).relu()
    if head.views == 1 or type(fusion_of(head.network)) is MeanFusion:
        return maps
    return maps * head.view_weights(features)[list(labels)][..., None, None]


def ablationcam(head: Head, features: Tensor, labels: Sequence[int]) -> Tensor:
    """Ablation-CAM (Desai and Ramaswamy 2020, WACV, eq. 2): a channel's weight is what the logit loses without it.

    `a_k = y - y_k`, y_k with channel k of that view set to 0. The paper divides by y, which scales the map, and turns
    it over where the logit is negative; here that is left out, so that evidence for a label stays evidence. A linear
    head gives `y - y_k` in closed form; another is asked once per channel and view, without its encoder.
    """
    linear = head.weights()
    if linear is not None:
        loss = linear[list(labels)][:, None] * features.mean(dim=(2, 3)) / head.views  # (n, V, C)
        return _weighted(features, loss)
    views, channels = features.shape[:2]
    pairs = torch.cartesian_prod(torch.arange(views), torch.arange(channels)).to(features.device)
    changed = []
    with torch.no_grad():
        whole = head.logits(features)[:, list(labels)]  # (1, n)
        for some in torch.split(pairs, head.at_once(features)):
            versions = features.repeat(len(some), 1, 1, 1, 1)  # (K, V, C, h, w)
            versions[torch.arange(len(some), device=some.device), some[:, 0], some[:, 1]] = 0
            changed.append(head.logits(versions.flatten(0, 1))[:, list(labels)])
    loss = (whole - torch.cat(changed)).T.reshape(-1, views, channels)
    return _weighted(features, loss)


def scorecam(
    head: Head,
    features: Tensor,
    labels: Sequence[int],
    images: Tensor,
    encode: Callable[[Tensor], Tensor],
    at_once: int = 16,
) -> Tensor:
    """Score-CAM (Wang et al. 2020, arXiv 1910.01279, eq. 5 to 9): a channel's weight is the score of what it shows.

    Each channel, stretched to [0, 1] and brought to the image's size, masks the image; `a_k` is the softmax over
    channels of the logit of the masked image less that of a black one. Other views of the study stay as they are. One
    forward pass of the encoder per channel and view, which all labels share: 1,024 for a DenseNet121. Channels that are
    constant show nothing and have weight 0.

    Args:
        head: The part above the features.
        features: (V, C, h, w).
        labels: Positions of n labels in the logits.
        images: (V, 1, S, S) uint8.
        encode: Images to features.
        at_once: Masked images in one pass of the encoder.
    """
    weights = torch.zeros(len(labels), *features.shape[:2], device=features.device)
    with torch.no_grad():
        for place in range(head.views):
            channels = features[place, :, None]  # (C, 1, h, w)
            masks = functional.interpolate(channels, images.shape[2:], mode="bilinear", align_corners=False)
            low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
            live = ((high - low) > _TINY).flatten().nonzero()[:, 0]

            def scores(films: Tensor, place: int = place) -> Tensor:
                versions = features.repeat(len(films), 1, 1, 1, 1)
                versions[:, place] = encode(films).float()
                return head.logits(versions.flatten(0, 1))[:, list(labels)]  # (K, n)

            blank = scores(torch.zeros_like(images[place : place + 1]))
            parts = []
            for some in torch.split(live, min(at_once, head.at_once(features))):
                shown = (masks[some] - low[some]) / (high[some] - low[some]) * images[place]
                parts.append(scores(shown.round().to(torch.uint8)) - blank)
            if parts:
                weights[:, place, live] = torch.cat(parts).softmax(dim=0).T
    return _weighted(features, weights)


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """`ReLU(sum_k weights_k A_k)` of weights (n, V, C)."""
    return torch.einsum("nvc,vchw->nvhw", weights, features).relu()
