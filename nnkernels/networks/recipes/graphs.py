"""Networks on graphs: few nodes have a label, and edges tell the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...train.datasets import named
from ..drawing import tiles
from ..gnn import GNN
from ..recipe import ACCURACY, Baseline, Contrast, Recipe
from ..trials import Fitted, Learned, sklearn

NEIGHBOURS, LABELS = 8, 5


class Graph(NamedTuple):
    """Nodes `(nodes, features)`, edges `(2, edges)`, classes `(nodes,)`, and whose class is told `(nodes,)`."""

    x: Tensor
    edge_index: Tensor
    y: Tensor
    told: Tensor


def karate(seed: int) -> Graph:
    """Zachary's (1977) club, of which the class of its two heads alone is told; nodes have no features but a number."""
    import networkx

    club = networkx.karate_club_graph()
    edge_index = torch.tensor(list(club.to_directed().edges)).T.contiguous()
    y = torch.tensor([int(club.nodes[node]["club"] == "Officer") for node in club])
    told = torch.zeros(len(y), dtype=torch.bool)
    told[[0, len(y) - 1]] = True
    return Graph(torch.eye(len(y)), edge_index, y, told)


def strangers(seed: int) -> Graph:
    graph = karate(seed)
    return graph._replace(edge_index=graph.edge_index[:, :0])


def digits(seed: int) -> Graph:
    """All digits, an edge between each and the eight nearest to it; five of each class are told, drawn by the seed."""
    found = named("digits")
    parts: Any = (found.train, found.held)
    x = torch.cat([part.inputs for part in parts]).flatten(1) / 16
    y = torch.cat([part.targets for part in parts])
    nearest = torch.cdist(x, x).fill_diagonal_(torch.inf).topk(NEIGHBOURS, largest=False).indices
    pairs = torch.stack([nearest.flatten(), torch.arange(len(x)).repeat_interleave(NEIGHBOURS)])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    told = torch.zeros(len(x), dtype=torch.bool)
    for digit in range(10):
        told[order[y[order] == digit][:LABELS]] = True
    return Graph(x, torch.cat([pairs, pairs.flip(0)], 1).unique(dim=1), y, told)


def wrongly_joined(seed: int) -> Graph:
    """The same digits, the edges between others."""
    graph = digits(seed)
    others = torch.randperm(len(graph.x), generator=torch.Generator().manual_seed(seed))
    return graph._replace(edge_index=others[graph.edge_index])


def learn(model: GNN, graph: Graph) -> None:
    """100 steps of AdamW on the whole graph, from the classes that are told."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        scores = model(graph.x, graph.edge_index)
        torch.nn.functional.cross_entropy(scores[graph.told], graph.y[graph.told]).backward()
        optimizer.step()


@torch.no_grad()
def hits(model: GNN, graph: Graph) -> float:
    """The share of right classes among those that were not told."""
    said = model(graph.x, graph.edge_index).argmax(1)
    return (said == graph.y)[~graph.told].float().mean().item()


def from_told(model: Any, graph: Graph) -> None:
    model.fit(*(one[graph.told].numpy() for one in (rows(graph), graph.y)))


def spread(model: Any, graph: Graph) -> None:
    model.fit(graph.x.numpy(), torch.where(graph.told, graph.y, -1).numpy())


def score(model: Any, graph: Graph) -> float:
    return model.score(*(one[~graph.told].numpy() for one in (rows(graph), graph.y)))


def spread_score(model: Any, graph: Graph) -> float:
    return float((torch.from_numpy(model.transduction_) == graph.y)[~graph.told].float().mean())


def rows(graph: Graph) -> Tensor:
    """What each node is, and whom it knows, as a table's row."""
    known = torch.zeros(len(graph.x), len(graph.x))
    known[graph.edge_index[0], graph.edge_index[1]] = 1
    return graph.x + known


@torch.no_grad()
def the_club(learned: Learned, figure: Any) -> None:
    """The club: each member's colour is what the network believes, a ring is who was told, a cross who is wrong."""
    import networkx

    graph, club = learned.data, networkx.karate_club_graph()
    belief = learned.model(graph.x, graph.edge_index).softmax(1)[:, 1]
    places = networkx.spring_layout(club, seed=0)
    axes = figure.subplots()
    networkx.draw_networkx_edges(club, places, ax=axes, alpha=0.3)
    x, y = torch.tensor([places[node].tolist() for node in club]).T
    drawn = axes.scatter(x, y, c=belief, cmap="coolwarm", vmin=0, vmax=1, s=140, edgecolors="grey", zorder=2)
    wrong = (belief > 0.5).long() != graph.y
    axes.scatter(x[graph.told], y[graph.told], s=320, facecolors="none", edgecolors="black", label="told", zorder=3)
    axes.scatter(x[wrong], y[wrong], s=60, marker="x", color="black", label="wrong", zorder=3)
    figure.colorbar(drawn, label="the officer's side")
    axes.legend(frameon=False)
    axes.axis("off")


@torch.no_grad()
def heeded(learned: Learned, figure: Any) -> None:
    """Digits whose neighbours are of several classes, each beside these from the most to the least heeded."""
    graph = learned.data
    _, edges, weights = learned.model.layers[0].heeded(graph.x, graph.edge_index)
    differ = (graph.y[edges[0]] != graph.y[edges[1]]).long()
    mixed = torch.zeros_like(graph.y).index_add_(0, edges[1], differ).topk(5).indices
    lines = {}
    for node in mixed.tolist():
        into = (edges[1] == node) & (edges[0] != node)
        order = weights[into].mean(1).argsort(descending=True)[:10]
        pictures = torch.cat([graph.x[node][None], graph.x[edges[0][into][order]]])
        share = weights[into].mean(1)[order] * (int(into.sum()) + 1)
        title = f"a {graph.y[node]}, and its neighbours, from {share[0]:.2f} to {share[-1]:.2f} of an equal share"
        lines[title] = pictures.view(-1, 8, 8)
    tiles(figure, lines)


RECIPES = (
    Recipe(
        name="gnn",
        network="GNN",
        paper="Kipf & Welling 2017",
        problem="a club's two sides, two of 34 members told",
        trial=Fitted(karate, lambda seed: GNN(34, 2, width=16), fit=learn, measure=hits),
        metric=ACCURACY,
        threshold=0.9,
        contrast=Contrast(
            "without edges", Fitted(strangers, lambda seed: GNN(34, 2, width=16), fit=learn, measure=hits), bound=0.75
        ),
        baseline=Baseline(
            "logistic regression", Fitted(karate, sklearn("linear_model.LogisticRegression"), from_told, score)
        ),
        picture=the_club,
    ),
    Recipe(
        name="gat",
        network="GNN",
        paper="Velickovic et al. 2018",
        problem="digits, 50 of 1,797 told, joined to the nearest",
        trial=Fitted(digits, lambda seed: GNN(64, 10, "attention", width=64, dropout=0.5), fit=learn, measure=hits),
        metric=ACCURACY,
        threshold=0.89,
        contrast=Contrast(
            "the edges between others",
            Fitted(wrongly_joined, lambda seed: GNN(64, 10, "attention", width=64, dropout=0.5), learn, hits),
            bound=0.3,
        ),
        baseline=Baseline(
            "label spreading",
            Fitted(
                digits,
                sklearn("semi_supervised.LabelSpreading", kernel="knn", n_neighbors=NEIGHBOURS),
                spread,
                spread_score,
            ),
        ),
        picture=heeded,
    ),
)
