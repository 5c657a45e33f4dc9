r"""The contract of a network: what it maps to what, checked wherever a component applies one."""

from torch import Tensor, nn

from pyrovae._process.allocation import is_of_memory
from pyrovae.networks.maps import NetworkFactory, Shape, batched

__all__ = ["applied", "built"]


def built(network: NetworkFactory, in_shape: Shape, out_shape: Shape) -> nn.Module:
    """Make a network between two shapes, and say what a factory is if it is none.

    Args:
        network: factory of the network.
        in_shape, out_shape: shapes of one input and output.

    Raises:
        TypeError: if ``network`` cannot be called, or is a network already, or a shape is none.

    Example:
        >>> from pyrovae.networks import MLP, built
        >>> built("mlp", (3,), (2,))
        Traceback (most recent call last):
        TypeError: network must be a factory, called with (in_shape, out_shape), got 'mlp'; ...
    """
    if isinstance(network, nn.Module) or not callable(network):
        what = f"a {type(network).__name__}" if isinstance(network, nn.Module) else repr(network)
        raise TypeError(
            f"network must be a factory, called with (in_shape, out_shape), got {what}; give a "
            "class such as pyrovae.networks.MLP, or functools.partial(MLP, hidden_dims=(500, 500))"
        )
    for shape in (in_shape, out_shape):
        if any(isinstance(size, bool) or not isinstance(size, int) for size in shape):
            raise TypeError(
                f"latent_dim and the sizes of event_shape must be whole numbers, got {shape}"
            )
    return network(in_shape, out_shape)


def applied(network: nn.Module, x: Tensor, in_shape: Shape, out_shape: Shape) -> Tensor:
    """Apply a network, and name the contract of networks if it does not keep it.

    Args:
        network: maps ``(*batch, *in_shape)`` to ``(*batch, *out_shape)`` for any number of leading
            dimensions; one that ignores its input may return ``out_shape`` alone.
        x: its input.
        in_shape, out_shape: the shapes that it was made for.

    Returns:
        Its output.

    Raises:
        ValueError: if x does not end in ``in_shape``, the network fails on it, or its output has
            another shape.

    Example:
        >>> from pyrovae.networks import MLP, applied
        >>> applied(MLP((3,), (2,)), torch.zeros(10, 5, 3), (3,), (2,)).shape
        torch.Size([10, 5, 2])
        >>> def flat(x):
        ...     return x.reshape(len(x), -1)[:, :2]
        >>> applied(flat, torch.zeros(10, 5, 3), (3,), (2,))
        Traceback (most recent call last):
        ValueError: flat returns shape (10, 2) for an input of shape (10, 5, 3); ...
    """
    first = x.dim() - len(in_shape)
    batch = x.shape[:first]
    name = getattr(network, "__name__", type(network).__name__)
    if first < 0 or tuple(x.shape[first:]) != tuple(in_shape):
        inside = ", ".join(map(str, in_shape))
        raise ValueError(
            f"{name} was built for inputs of shape (*batch, {inside}) and is given "
            f"{tuple(x.shape)}; reshape it, or build prior, likelihood and posterior for one "
            "latent_dim and event_shape"
        )
    try:
        output = batched(network, x, len(in_shape))
    except RuntimeError as error:
        if is_of_memory(error) or "dtype" in str(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} fails on an input of shape {tuple(x.shape)} ({reason}); "
            f"{_contract(in_shape, out_shape)}"
        ) from error
    if not isinstance(output, Tensor):
        raise TypeError(f"{name} returns a {type(output).__name__}; a network returns a tensor")
    last = output.dim() - len(out_shape)
    if tuple(output.shape[max(last, 0) :]) != tuple(out_shape) or (
        last != 0 and output.shape[:last] != batch
    ):
        raise ValueError(
            f"{name} returns shape {tuple(output.shape)} for an input of shape {tuple(x.shape)}; "
            f"{_contract(in_shape, out_shape)}"
        )
    return output


def _contract(in_shape: Shape, out_shape: Shape) -> str:
    return (
        "a network maps (*batch, *in_shape) to (*batch, *out_shape), with any number of batch "
        f"dimensions, here in_shape {tuple(in_shape)} and out_shape {tuple(out_shape)}: write "
        f"x.flatten({-len(in_shape)}) in place of x.reshape(len(x), -1), and end with "
        f".unflatten(-1, {tuple(out_shape)})"
    )
