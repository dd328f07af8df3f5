"""The order of rows: every row is made once, in time, and nothing is held that is not needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.inference.tiling.receptive_field import ONE_TO_ONE, Reading, RowOrder, Window


def test_a_window_of_three_reads_a_row_on_either_side():
    window = Window(extent=3, stride=1, before=1, after=1)
    assert window.keeps_size
    assert (window.size_out(7), window.first_read(0), window.first_read(4)) == (7, -1, 3)
    assert [window.made_of(rows, 7) for rows in (0, 1, 2, 6, 7)] == [0, 0, 1, 5, 7]


def test_a_stride_of_two_makes_a_row_of_two():
    window = Window(extent=3, stride=2, before=1, after=1)
    assert [window.size_out(size) for size in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]
    assert [window.made_of(rows, 9) for rows in (0, 1, 2, 3, 4)] == [0, 0, 1, 1, 2]


windows = st.builds(
    Window, st.integers(1, 5), st.integers(1, 3), before=st.integers(0, 2), after=st.integers(0, 2)
)


@st.composite
def networks(draw):
    """Layers that each read earlier maps of one size, some the sum of two, and which maps are asked for."""
    size = draw(st.integers(1, 30))
    readings, sizes = [], [size]
    for _ in range(draw(st.integers(1, 6))):
        number = draw(st.integers(0, len(sizes) - 1))
        alike = [other for other, height in enumerate(sizes) if height == sizes[number]]
        if draw(st.booleans()):
            reading = Reading((number, draw(st.sampled_from(alike))), ONE_TO_ONE, ONE_TO_ONE)
        else:
            reading = Reading((number,), draw(windows), ONE_TO_ONE)
        height = reading.rows.size_out(sizes[number])
        if height < 1:
            continue
        readings.append(reading)
        sizes.append(height)
    if not readings:
        readings, sizes = [Reading((0,), ONE_TO_ONE, ONE_TO_ONE)], [size, size]
    read = {number for reading in readings for number in reading.maps}
    outputs = [number for number in range(1, len(sizes)) if number not in read]
    return RowOrder(readings, 1, outputs, idle_rows=draw(st.integers(0, 1))), sizes


def rows_of_whole(order, image):
    """Every map as it is made at once: a layer sums the rows of its window, and its inputs."""
    maps = [image]
    for reading in order.readings:
        rows = reading.rows
        padded = [np.pad(maps[number], (rows.before, rows.after)) for number in reading.maps]
        size = rows.size_out(len(maps[reading.maps[0]]))
        starts = [row * rows.stride for row in range(size)]
        maps.append(np.array([sum(x[s : s + rows.extent].sum() for x in padded) for s in starts]))
    return maps


@settings(max_examples=200, deadline=None)
@given(networks(), st.integers(1, 8))
def test_rows_made_in_turns_are_those_of_the_whole(network, times):
    order, sizes = network
    assert [height for height, _ in order.sizes([(sizes[0], 1)])] == sizes
    image = np.random.default_rng(0).integers(1, 9, sizes[0])
    plan = order.plan(sizes, times)
    held = {number: np.zeros(0, int) for number in order.kept}
    for strips, zeros, made, forgotten in zip(*plan, strict=True):
        stores, new = {0: image}, {}
        cut = iter(zip(strips, zeros, strict=True))
        for layer, reading in enumerate(order.readings):
            args = []
            for number in reading.maps:
                if order.abreast(layer, number):
                    args.append(new[number])
                    continue
                (first, count), around = next(cut)
                assert first >= 0
                assert first + count <= len(stores[number])
                args.append(np.pad(stores[number][first : first + count], tuple(around)))
            rows = reading.rows
            size = (len(args[0]) - rows.extent) // rows.stride + 1
            starts = [row * rows.stride for row in range(size)]
            number = layer + 1
            new[number] = np.array([sum(x[s : s + rows.extent].sum() for x in args) for s in starts], int)
            assert order.idle_rows <= size <= -(-sizes[number] // times)
            if number in held:
                count = made[order.kept.index(number)]
                stores[number] = np.concatenate([held[number], new[number][:count]])
        held = {number: stores[number][first:] for number, first in zip(order.kept, forgotten, strict=True)}
    whole = rows_of_whole(order, image)
    for number in order.outputs:
        np.testing.assert_array_equal(held[number], whole[number])


@pytest.mark.parametrize("times", [4, 10])
def test_a_chain_of_convolutions_holds_a_few_rows_of_each_map(times):
    window = Window(3, 1, 1, 1)
    readings = [Reading((number,), window, window) for number in range(6)]
    order = RowOrder(readings, 1, [6], idle_rows=1)
    plan = order.plan([40] * 7, times)
    made = np.cumsum(plan.forgotten, axis=0)
    assert order.kept == (1, 2, 3, 4, 5, 6)
    assert not plan.forgotten[:, -1].any()  # of the output nothing is forgotten
    assert (made[-1, :-1] == 39).all()  # of the others all but what the last window began with
    assert plan.strips[..., 1].max() <= 40 // times + 2


def test_a_layer_that_has_nothing_to_make_reads_no_more_than_it_must():
    window = Window(3, 2, 1, 1)
    for idle_rows, read in ((0, 1), (1, 3)):  # of a window of three at a stride of two
        order = RowOrder(
            [Reading((0,), window, window), Reading((1,), window, window)], 1, [2], idle_rows=idle_rows
        )
        plan = order.plan([16, 8, 4], 8)
        idle = plan.made[:, -1] == 0
        assert idle.any()
        assert set((plan.strips[idle, 1, 1] + plan.zeros[idle, 1].sum(axis=-1)).tolist()) == {read}
