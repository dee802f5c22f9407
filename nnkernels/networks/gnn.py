"""Graph networks: a node hears its neighbours, all alike (Kipf & Welling 2017) or as it heeds them (Velickovic 2018).

Edges are PyTorch Geometric's `edge_index`, `(2, edges)`: node numbers, from the first row to the second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from ..names import check
from .activating import features_in, initialise, layer
from .expecting import expect


def checked_edges(edge_index: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """The edges' sources and targets, each `(edges,)`.

    Raises:
        ValueError: the shape is another than (2, edges), or a node is unknown, which torch.compile does not look for.
        TypeError: node numbers are not int64.
    """
    expect("edge_index", edge_index, 2, "edges")
    if edge_index.dtype != torch.int64:
        raise TypeError(f"edge_index holds node numbers of torch.int64, got {edge_index.dtype}")
    if not torch.compiler.is_compiling():
        unknown = edge_index[(edge_index < 0) | (edge_index >= nodes)]
        if len(unknown):
            raise ValueError(f"edge_index names the node {int(unknown[0])}, but the nodes are 0 to {nodes - 1}")
    return edge_index[0], edge_index[1]


def with_loops(edge_index: Tensor, nodes: int) -> Tensor:
    """The edges with one from each node to itself, in the place of such as there were.

    Example:
        >>> import torch
        >>> from nnkernels.networks.gnn import with_loops
        >>> with_loops(torch.tensor([[0, 1], [1, 1]]), 2)
        tensor([[0, 0, 1],
                [1, 0, 1]])
    """
    kept = edge_index[:, edge_index[0] != edge_index[1]]
    return torch.cat([kept, torch.arange(nodes, device=edge_index.device).expand(2, -1)], 1)


def edge_softmax(scores: Tensor, target: Tensor, nodes: int) -> Tensor:
    """The softmax over the edges that lead to the same node.

    Args:
        scores: `(edges, heads)`.
        target: of each edge, `(edges,)`.
        nodes: how many there are.

    Returns:
        `(edges, heads)`; those of one target sum to 1.
    """
    where = target[:, None].expand_as(scores)
    greatest = scores.new_full((nodes, scores.shape[1]), -torch.inf).scatter_reduce(0, where, scores.detach(), "amax")
    raised = (scores - greatest[target]).exp()
    return raised / raised.new_zeros(nodes, scores.shape[1]).index_add(0, target, raised)[target]


class GraphConvolution(torch.nn.Module):
    """D^-1/2 (A + I) D^-1/2 x W + b, where D counts the edges of A + I that lead to a node.

    Args:
        features: of each node.
        width: of what each node becomes.

    Shape: x `(nodes, features)` and edge_index `(2, edges)` to `(nodes, width)`.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.weight = torch.nn.Linear(features, width, bias=False)
        self.bias = torch.nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        expect(self, x, "nodes", self.features)
        checked_edges(edge_index, len(x))
        source, target = with_loops(edge_index, len(x))
        message = self.weight(x)
        degree = message.new_zeros(len(x)).index_add(0, target, message.new_ones(len(target)))
        share = (degree[source] * degree[target]).rsqrt()[:, None]
        return message.new_zeros(message.shape).index_add(0, target, (share * message[source]).to(message)) + self.bias


class GraphAttention(torch.nn.Module):
    """Each head weighs the neighbours by softmax(leaky_relu(a . W x_source + b . W x_target)).

    Args:
        features: of each node.
        width: of what each node becomes, all heads together; a multiple of `heads`.
        heads: that weigh in their own ways.

    Shape: x `(nodes, features)` and edge_index `(2, edges)` to `(nodes, width)`.
    """

    def __init__(self, features: int, width: int, heads: int = 1) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width has to be a multiple of the heads, got {width} and {heads}")
        self.features, self.heads = features, heads
        self.weight = torch.nn.Linear(features, width, bias=False)
        self.bias = torch.nn.Parameter(torch.zeros(width))
        self.of_source, self.of_target = (
            torch.nn.Parameter(torch.nn.init.xavier_uniform_(torch.empty(heads, width // heads))) for _ in range(2)
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.heeded(x, edge_index)[0]

    def heeded(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` gives; the edges with loops `(2, edges)`; and their weights `(edges, heads)`."""
        expect(self, x, "nodes", self.features)
        checked_edges(edge_index, len(x))
        edges = with_loops(edge_index, len(x))
        source, target = edges
        message = self.weight(x).unflatten(1, (self.heads, -1))
        scores = (message * self.of_source).sum(2)[source] + (message * self.of_target).sum(2)[target]
        weights = edge_softmax(F.leaky_relu(scores, 0.2), target, len(x))
        heard = (weights[:, :, None] * message[source]).to(message)
        return message.new_zeros(message.shape).index_add(0, target, heard).flatten(1) + self.bias, edges, weights


KINDS = ("convolution", "attention")


class GNN(torch.nn.Module):
    """Layers on a graph, with an activation and dropout between them.

    Args:
        features: of each node.
        outputs: numbers for each node.
        kind: of layer, "convolution" or "attention".
        activation: any name of the catalogue.
        width: of the hidden layers.
        depth: layers, so that a node hears what is `depth` edges away.
        heads: of each hidden layer of attention; the last has one.
        dropout: the probability, in front of each layer.

    Shape: x `(nodes, features)` and edge_index `(2, edges)` to `(nodes, outputs)`.

    Example:
        >>> import torch
        >>> from nnkernels.networks.gnn import GNN
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> GNN(4, 2, "attention", heads=4)(torch.zeros(3, 4), edge_index).shape
        torch.Size([3, 2])
        >>> GNN(4, 2)(torch.zeros(2, 4), edge_index)
        Traceback (most recent call last):
        ...
        ValueError: edge_index names the node 2, but the nodes are 0 to 1
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        kind: str = "convolution",
        *,
        activation: str = "elu",
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check("kind", kind, KINDS)
        self.layers = torch.nn.ModuleList()
        before = "linear"
        for at in range(depth):
            last = at == depth - 1
            size = outputs if last else width * features_in(activation)
            one: GraphConvolution | GraphAttention = (
                GraphConvolution(features, size)
                if kind == "convolution"
                else GraphAttention(features, size, 1 if last else heads)
            )
            initialise(one.weight, before)
            self.layers.append(one)
            features, before = width, activation
        self.activation = layer(activation)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        *hidden, last = self.layers
        for one in hidden:
            x = self.activation(one(self.dropout(x), edge_index))
        return last(self.dropout(x), edge_index)
