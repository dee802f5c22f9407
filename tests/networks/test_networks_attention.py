"""What the papers of attention, of the transformers, of pooling, of the NTM and of the DNC promise."""

from __future__ import annotations

import itertools

import pytest
import torch

import nnkernels.functional as F
from nnkernels.networks import build
from nnkernels.networks.alignment import AdditiveAttention, Translator
from nnkernels.networks.attending import Attention
from nnkernels.networks.dnc import DNC, allocated
from nnkernels.networks.ntm import NTM
from nnkernels.networks.pooling import AttentionPooling
from nnkernels.networks.remembering import changed
from nnkernels.networks.transformer import Reader, Transformer
from nnkernels.networks.vit import ViT


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_drawn_of_attention_is_what_it_does(causal):
    attention = Attention(64, 2, 0.0, 1.0, causal).double()
    x, turn = drawn(3, 7, 64), (drawn(7, 16), drawn(7, 16))
    shares, (_, _, value) = attention.shares(x, turn), attention.asked(x, turn)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 2, 7, dtype=torch.float64))
    assert bool((shares.triu(1) == 0).all()) == causal
    torch.testing.assert_close(attention.given((shares @ value).transpose(1, 2).flatten(2)), attention(x, turn))


def test_without_positions_a_reader_sees_a_bag():
    text = torch.randint(50, (4, 16))
    mixed = text[:, torch.randperm(16)]
    for turning in (True, False):
        reader = Reader(16, 50, 2, width=32, turning=turning).double()
        assert torch.allclose(reader(text), reader(mixed), rtol=1e-9) != turning


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="Transformer takes at most 16 places, got 17"):
        Transformer((16,), 50, width=32)(torch.zeros(2, 17, dtype=torch.long))
    assert Reader(16, 50, 2, width=32, turning=False)(torch.zeros(2, 17, dtype=torch.long)).shape == (2, 2)
    with pytest.raises(ValueError, match=r"Transformer takes the shape \(batch, places\), got \(17,\)"):
        Transformer((16,), 50, width=32)(torch.zeros(17, dtype=torch.long))


def test_a_vit_sees_patches_and_their_places():
    vit, x = ViT((1, 8, 8), 3, width=32).double(), drawn(2, 1, 8, 8)
    swapped = x.clone()
    swapped[..., :2, :2], swapped[..., 4:6, 2:4] = x[..., 4:6, 2:4], x[..., :2, :2]
    assert not torch.allclose(vit(x), vit(swapped))
    torch.nn.init.zeros_(vit.place)
    torch.testing.assert_close(vit(x), vit(swapped))
    with pytest.raises(ValueError, match="30 x 28 pixels cannot be cut into patches of 4 x 4"):
        ViT((1, 30, 28), 3)
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\), got \(2, 1, 8, 4\)"):
        vit(x[..., :4])


def test_additive_attention_is_what_the_formula_says():
    attention = AdditiveAttention(3, 5, 4).double()
    query, memory = drawn(2, 3), drawn(2, 6, 5)
    mean, shares = attention(query, memory, attention.known(memory))
    for at in range(2):
        scores = [
            attention.score.weight[0] @ torch.tanh(attention.known(one) + attention.asked(query[at]))
            for one in memory[at]
        ]
        torch.testing.assert_close(shares[at], torch.stack(scores).softmax(0))
        torch.testing.assert_close(mean[at], shares[at] @ memory[at])


@pytest.mark.parametrize("attends", [True, False])
def test_a_translator_writes_what_it_holds_likeliest_and_sees_no_future(attends):
    translator, text = Translator(11, width=16, attends=attends), torch.randint(11, (5, 9))
    written = translator.write(text, 7)
    told = translator(text, written)
    assert torch.equal(told.argmax(2), written)
    changed_later = torch.cat([written[:, :4], (written[:, 4:] + 1) % 11], 1)
    torch.testing.assert_close(translator(text, changed_later)[:, :5], told[:, :5])
    assert not torch.allclose(translator(text, changed_later)[:, 5:], told[:, 5:])
    torch.testing.assert_close(translator.looked(text, 7).sum(2), torch.full((5, 7), float(attends)))


def test_a_translator_asks_for_texts_of_one_batch():
    with pytest.raises(ValueError, match=r"\(5, length\), got \(4, 9\)"):
        Translator(11, width=8)(torch.zeros(5, 9, dtype=torch.long), torch.zeros(4, 9, dtype=torch.long))


def test_a_bag_has_no_order_and_any_size():
    network, bag = AttentionPooling((10, 6), 2, width=8).double(), drawn(3, 10, 6)
    torch.testing.assert_close(network(bag), network(bag[:, torch.randperm(10)]))
    torch.testing.assert_close(network(torch.cat([bag, bag], 1)), network(bag))
    shares = network.pool.shares(network.hidden(bag))
    torch.testing.assert_close(shares.sum(1), torch.ones(3, dtype=torch.float64))
    assert shares.std() > 0


def test_a_slot_is_found_by_the_direction_of_what_it_holds():
    memory, keys = drawn(2, 7, 5), drawn(2, 3, 5)
    strength = torch.rand(2, 3, dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity(keys.unsqueeze(2), memory.unsqueeze(1), dim=-1)
    expected = (strength.unsqueeze(2) * cosine).softmax(-1)
    torch.testing.assert_close(F.content_addressing(memory, keys, strength), expected, rtol=1e-3, atol=0)
    nowhere = F.content_addressing(torch.zeros_like(memory), keys, strength)
    assert nowhere.allclose(torch.tensor(1 / 7, dtype=torch.float64))


def test_heads_stay_step_and_turn_around():
    where = torch.eye(5, dtype=torch.float64).unsqueeze(0)
    keep, one = where.new_zeros(1, 5), where.new_ones(1, 5)

    def moved(before, gate, shift, sharpness):
        return F.content_addressing(where.new_zeros(1, 5, 3), drawn(1, 5, 3), one, gate, before, shift, sharpness)

    for step in (-1, 0, 1):
        shift = torch.eye(3, dtype=torch.float64)[step + 1].expand(1, 5, 3)
        torch.testing.assert_close(moved(where, keep, shift, one), where.roll(step, -1), rtol=0, atol=1e-9)
    torch.testing.assert_close(moved(where, one, shift, one), torch.full_like(where, 0.2))
    blurred = moved(where, keep, torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64).expand(1, 5, 3), one)
    torch.testing.assert_close(moved(blurred, keep, shift, 500 * one), where.roll(1, -1), rtol=0, atol=1e-9)


def test_what_is_free_is_given_away_first():
    usage = torch.tensor([[0.9, 0.1, 0.5], [1.0, 1.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.1 * 0.1 * 0.5, 0.9, 0.5 * 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(allocated(usage), expected)


def test_allocation_and_writing_have_the_gradients_of_their_formulas():
    def shares(*shape: int) -> torch.Tensor:
        return drawn(*shape).softmax(-1).requires_grad_()

    assert torch.autograd.gradcheck(allocated, shares(2, 5))
    assert torch.autograd.gradcheck(
        changed, (drawn(1, 4, 3).requires_grad_(), shares(1, 4), shares(1, 3), drawn(1, 3).requires_grad_())
    )


def telling(machine, **said: float):
    """The machine, whose controller always tells its heads the same: the numbers of its parts by name, others 0."""
    names = {
        NTM: ("keys", "strength", "gate", "shift", "sharpness", "erase", "add"),
        DNC: ("keys", "strength", "free", "modes", "allocation", "writes", "erase", "add"),
    }[type(machine)]
    parts = machine.interface.bias.detach().split(machine.told())
    torch.nn.init.zeros_(machine.interface.weight)
    for name, part in zip(names, parts, strict=True):
        part.copy_(torch.as_tensor(said.get(name, 0.0)).expand(part.shape))
    return machine


def test_a_turing_machines_heads_can_walk_along_the_tape():
    machine = telling(NTM(3, 2, slots=6), gate=-40.0, shift=torch.tensor([-40.0, -40.0, 40.0] * 2))
    _, where = machine.traced(torch.randn(2, 8, 3))
    assert where.argmax(-1)[0, :, 0].tolist() == [1, 2, 3, 4, 5, 0, 1, 2]
    assert torch.equal(where[:, :, 0].argmax(-1), where[:, :, 1].argmax(-1))


def test_a_dnc_writes_where_it_is_free_and_knows_what_followed():
    machine = telling(DNC(3, 2, slots=6), allocation=40.0, writes=40.0, free=-40.0)
    state, memory = machine.begin(machine.interface.weight, 1), torch.zeros(1, 6, 12)
    parts = machine.interface.bias.detach().unsqueeze(0).split(machine.told(), 1)
    order = []
    for _ in range(6):
        memory, where, state = machine.move(parts, memory, state)
        order.append(int(where[0, 0].argmax()))
    assert sorted(order) == list(range(6)) and state.usage.sum() > 4.99
    for first, second in itertools.pairwise(order):
        assert int(state.links[0, :, first].argmax()) == second and int(state.links[0, second].argmax()) == first
    assert state.links.diagonal(dim1=1, dim2=2).abs().max() == 0


@pytest.mark.parametrize("machine", [NTM, DNC])
def test_a_machine_with_memory_is_a_plain_module(machine):
    """Batches of any size, more heads, autocast, torch.compile as one graph, export, and a state for another."""
    made, other = (machine(5, 4, slots=10, heads=2).eval() for _ in range(2))
    x = torch.randn(6, 7, 5)
    whole, where = made.traced(x)
    assert where.shape == (6, 7, 3, 10) and (where >= 0).all() and (where.sum(-1) <= 1 + 1e-5).all()
    torch.testing.assert_close(torch.cat([made(one) for one in x.split(4)]), whole)
    other.load_state_dict(made.state_dict())
    torch.testing.assert_close(other(x), whole)
    torch.testing.assert_close(torch.compile(made, backend="eager", fullgraph=True)(x), whole)
    exported = torch.export.export(made, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(x[:3]), whole[:3])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(made(x).float(), whole, rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match=rf"{machine.__name__} takes the shape \(batch, places, 5\), got \(6, 7, 4\)"):
        made(x[..., :4])


@pytest.mark.slow
def test_positions_tell_a_reader_which_way_a_text_runs():
    pytest.importorskip("torchmetrics")
    from nnkernels.networks.recipe import tried
    from nnkernels.networks.recipes.attention import reader

    assert tried(reader(turning=True), seed=0).value > 0.85


def test_a_network_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match="multiple of 32, got 40"):
        build("vit", (1, 8, 8), 3, width=40)
