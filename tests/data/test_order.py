"""The order in which training visits examples."""

from itertools import islice

import pytest

from safelight.data.examples import Order


def visited(
    order: Order, batch: int, batches: int, position: int = 0
) -> list[tuple[list[int], list[int]]]:
    return list(islice(order.batches(batch, position), batches))


def test_each_epoch_is_a_permutation_of_its_own():
    order = Order(count=10, seed=0)
    epochs = [[order.index(epoch * 10 + place) for place in range(10)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert [order.index(place) for place in range(10)] == epochs[0]


def test_batches_follow_the_order_across_epochs():
    order = Order(count=7, seed=1)
    got = visited(order, batch=4, batches=5)
    positions = [position for some, _ in got for position in some]
    assert positions == list(range(20))
    assert [index for _, some in got for index in some] == [
        order.index(position) for position in positions
    ]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch_out_among_them(world):
    alone = visited(Order(10, 0), batch=6, batches=4)
    shares = [visited(Order(10, 0, rank, world), batch=6, batches=4) for rank in range(world)]
    for number, (positions, indices) in enumerate(alone):
        together = [
            pair
            for share in shares
            for pair in zip(share[number][0], share[number][1], strict=True)
        ]
        assert sorted(together) == sorted(zip(positions, indices, strict=True))
        assert {len(share[number][0]) for share in shares} == {6 // world}


def test_it_goes_on_from_any_position():
    whole = visited(Order(7, 0), batch=3, batches=8)
    for done in (1, 2, 5):
        assert visited(Order(7, 0), batch=3, batches=8 - done, position=3 * done) == whole[done:]
    assert visited(Order(7, 0), batch=5, batches=1, position=9) == [
        (list(range(9, 14)), [Order(7, 0).index(position) for position in range(9, 14)])
    ]


def test_seeds_differ_and_repeat():
    orders = [visited(Order(20, seed), batch=20, batches=1)[0][1] for seed in (0, 1, 2, 0)]
    assert len(set(map(tuple, orders))) == 3
    assert orders[0] == orders[3]
