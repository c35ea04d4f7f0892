"""How alike the pictures of one objective are to a layer: the cosines of their Gram matrices.

Source: lucid, `objectives.diversity`; Gatys, Ecker and Bethge, "Texture Synthesis Using Convolutional Neural
Networks", NeurIPS 2015.
"""

import numpy as np
import numpy.typing as npt
import torch

_TINY = 1e-10


def likeness(values: torch.Tensor, unit_axis: int, group: int) -> torch.Tensor:
    """Return for each picture the mean cosine of its Gram matrix with those of the others of its group, (rows,).

    Parameters
    ----------
    values
        The layer's values, (rows, *shape): `group` rows of each objective, one behind the other; at least two.
    unit_axis
        The axis of `shape` that counts units.
    """
    places = values.movedim(1 + unit_axis, 1).flatten(2)
    grams = places @ places.transpose(1, 2)
    flat = grams.flatten(1)
    unit = flat / (torch.linalg.vector_norm(flat, dim=1, keepdim=True) + _TINY)
    groups = unit.reshape(-1, group, unit.shape[1])
    cosines = groups @ groups.transpose(1, 2)
    others = cosines.sum(2) - torch.diagonal(cosines, dim1=1, dim2=2)
    found: torch.Tensor = (others / (group - 1)).flatten()
    return found


def likeness_gradient(values: npt.NDArray[np.generic], unit_axis: int, group: int) -> npt.NDArray[np.float32]:
    """Return the gradient of the sum of `likeness` at the values, (rows, *shape)."""
    leaf = torch.from_numpy(np.array(values, np.float32)).requires_grad_()
    (gradient,) = torch.autograd.grad(likeness(leaf, unit_axis, group).sum(), leaf)
    found: npt.NDArray[np.float32] = gradient.numpy()
    return found
