"""How many floating-point operations a learner's update needs, from the sizes of its layers.

Counted are the multiplications and additions of matrix products and convolutions (2 per weight and position), which
are more than 99 % of the work; activations, losses and the optimizer are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from retorq.nn.cores import LSTM
from retorq.nn.heads import ImplicitQuantile
from retorq.nn.network import Network
from retorq.nn.torsos import Torso


@dataclass(frozen=True, kw_only=True)
class Work:
    """Multiply-adds of one forward pass.

    Per row: ``torso``, of which ``first`` are its first layer's, and ``core``. Per row and quantile sample: ``cosine``,
    the embedding of fractions, and ``head``, all after it.
    """

    first: int
    torso: int
    core: int
    cosine: int
    head: int


def work(network: Network) -> Work:
    """The multiply-adds of a network of an image torso, an LSTM and an implicit quantile head.

    Raises:
        TypeError: It has other parts.
    """
    core, head = network.core, network._head
    if not isinstance(core, LSTM) or not isinstance(head, ImplicitQuantile) or head.embedding is None:
        raise TypeError("only networks of an LSTM and an implicit quantile head after it are counted")
    layers = _torso(network.torso)
    streams = [module for module in head.streams.modules() if isinstance(module, nn.Linear)]
    return Work(
        first=layers[0],
        torso=sum(layers),
        core=core.weight_input.numel() + core.weight_hidden.numel(),
        cosine=head.embedding.linear.weight.numel(),
        head=sum(layer.weight.numel() for layer in streams),
    )


def _torso(torso: Torso) -> list[int]:
    (name, leaf), *others = torso.leaves.items()
    if others or leaf.kind != "image" or len(torso.layers):
        raise TypeError("only torsos of one image, without further layers, are counted")
    image = torso.image(name)
    height, width = leaf.shape[1:]
    counts = []
    for layer in image.layers:
        if isinstance(layer, nn.Conv2d):
            (kernel, _), (stride, _) = layer.kernel_size, layer.stride
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            counts.append(layer.weight.numel() * height * width)
    return counts


def update(work: Work, *, batch: int, length: int, ahead: int, samples: int, passes: int = 2) -> int:
    """Floating-point operations of one double Q-learning update with ``samples`` fractions in every role.

    ``R = batch * length`` rows are learned from, ``E = batch * (length + ahead)`` are held::

        forward   passes: E (torso + core) each, three heads: 3 R samples (cosine + head)
        backward  R (2 (torso + core) - first) + R samples (2 head + cosine)

    since a backward pass costs a gradient for the weights and one for the inputs, and pixels and fractions need none.
    With ``passes=2`` one online unroll serves training and the choice of actions (ours). With ``passes=3`` (plain)
    the target and the online network each see all ``E`` rows, and the online network once more the ``R``.
    """
    learned, held = batch * length, batch * (length + ahead)
    unroll = work.torso + work.core
    forward = 2 * held * unroll + (learned * unroll if passes == 3 else 0)
    heads = 3 * learned * samples * (work.cosine + work.head)
    backward = learned * (2 * unroll - work.first) + learned * samples * (2 * work.head + work.cosine)
    return 2 * (forward + heads + backward)
