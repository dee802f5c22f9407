"""What graph networks promise: only edges count, nodes have no order, and PyTorch Geometric's layers are the same."""

from __future__ import annotations

import pytest
import torch

from nnkernels.networks.gnn import GNN, KINDS, GraphAttention, GraphConvolution, edge_softmax

EDGES = torch.tensor([[0, 1, 2, 2, 3, 4, 4], [1, 0, 1, 3, 2, 4, 0]])  # 5 is alone, 4 has a loop


def nodes(count: int = 6, features: int = 3) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS)
def network(request):
    torch.manual_seed(0)
    return GNN(3, 2, request.param, width=8)


def test_a_convolution_is_the_product_with_the_normalised_matrix():
    layer, x = GraphConvolution(3, 4), nodes()
    adjacency = torch.eye(6)
    adjacency[EDGES[1], EDGES[0]] = 1
    root = adjacency.sum(1).rsqrt().diag()
    torch.testing.assert_close(layer(x, EDGES), root @ adjacency @ root @ x @ layer.weight.weight.T)


def test_what_a_node_heeds_sums_to_1():
    scores, target = 300 * torch.randn(9, 2), torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3])
    weights = edge_softmax(scores, target, 5)
    for node in (0, 1, 3):
        torch.testing.assert_close(weights[target == node], scores[target == node].softmax(0))


def test_nodes_have_no_order(network):
    x, order = nodes(), torch.tensor([3, 5, 0, 1, 4, 2])
    moved = network(x[order], order.argsort()[EDGES])
    torch.testing.assert_close(moved, network(x, EDGES)[order])
    torch.testing.assert_close(network(x, EDGES[:, torch.randperm(EDGES.shape[1])]), network(x, EDGES))


def test_a_node_hears_as_far_as_there_are_layers(network):
    path = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    x = nodes()
    changed = x.clone()
    changed[0] += 1
    differ = (network(x, path) - network(changed, path)).abs().amax(1) > 1e-6
    assert differ.tolist() == [True, True, True, False, False, False]


def test_gradients_are_right():
    for layer in (GraphConvolution(3, 4), GraphAttention(3, 4, heads=2)):
        assert torch.autograd.gradcheck(layer.double(), (nodes().double().requires_grad_(), EDGES))


def test_it_compiles_and_bears_autocast_and_graphs_without_edges(network):
    x, whole = nodes(), network(nodes(), EDGES)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(x, EDGES), whole)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(x, EDGES).float(), whole, rtol=0.1, atol=0.1)
    assert network(x, EDGES[:, :0]).shape == (6, 2) and network(nodes(0), EDGES[:, :0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("edges", "error", "message"),
    [
        (torch.tensor([[0, 1], [1, 6]]), ValueError, "names the node 6, but the nodes are 0 to 5"),
        (torch.tensor([[0, -1], [1, 2]]), ValueError, "names the node -1"),
        (torch.tensor([[0, 1, 2]]), ValueError, r"edge_index takes the shape \(2, edges\), got \(1, 3\)"),
        (torch.tensor([[0.0], [1.0]]), TypeError, r"int64, got torch\.float32"),
    ],
)
def test_unknown_nodes_and_wrong_edges_are_refused(network, edges, error, message):
    with pytest.raises(error, match=message):
        network(nodes(), edges)


def test_a_wrong_shape_and_unknown_kinds_are_refused(network):
    with pytest.raises(ValueError, match=r"\(nodes, 3\), got \(6, 4\)"):
        network(nodes(features=4), EDGES)
    with pytest.raises(ValueError, match=r"atention.*attention"):
        GNN(3, 2, "atention")
    with pytest.raises(ValueError, match="multiple of the heads, got 6 and 4"):
        GraphAttention(3, 6, heads=4)


def test_the_layers_are_pytorch_geometrics():
    geometric = pytest.importorskip("torch_geometric.nn")
    x = nodes()
    ours, theirs = GraphConvolution(3, 4), geometric.GCNConv(3, 4)
    theirs.lin.weight.data = ours.weight.weight.data
    torch.testing.assert_close(ours(x, EDGES), theirs(x, EDGES))
    attention, other = GraphAttention(3, 6, heads=2), geometric.GATConv(3, 3, heads=2)
    other.lin.weight.data = attention.weight.weight.data
    other.att_src.data, other.att_dst.data = attention.of_source.data[None], attention.of_target.data[None]
    torch.testing.assert_close(attention(x, EDGES), other(x, EDGES))
