"""The schedule of strips: every row is computed once, in time, and nothing is held that is not needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.inference.tiling.receptive_field import POINTWISE, LayerInputs, ReceptiveField, StripScheduler


def test_a_receptive_field_of_three_reads_a_row_on_either_side():
    field = ReceptiveField(extent=3, stride=1, before=1, after=1)
    assert field.keeps_size
    assert (field.output_size(7), field.input_start(0), field.input_start(4)) == (7, -1, 3)
    assert [field.available_outputs(rows, 7) for rows in (0, 1, 2, 6, 7)] == [0, 0, 1, 5, 7]


def test_a_stride_of_two_makes_a_row_of_two():
    field = ReceptiveField(extent=3, stride=2, before=1, after=1)
    assert [field.output_size(size) for size in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]
    assert [field.available_outputs(rows, 9) for rows in (0, 1, 2, 3, 4)] == [0, 0, 1, 1, 2]


fields = st.builds(
    ReceptiveField, st.integers(1, 5), st.integers(1, 3), before=st.integers(0, 2), after=st.integers(0, 2)
)


@st.composite
def networks(draw):
    """Layers that each read earlier maps of one size, some the sum of two, and which maps are asked for."""
    size = draw(st.integers(1, 30))
    layer_inputs, sizes = [], [size]
    for _ in range(draw(st.integers(1, 6))):
        number = draw(st.integers(0, len(sizes) - 1))
        alike = [other for other, height in enumerate(sizes) if height == sizes[number]]
        if draw(st.booleans()):
            reads = LayerInputs((number, draw(st.sampled_from(alike))), POINTWISE, POINTWISE)
        else:
            reads = LayerInputs((number,), draw(fields), POINTWISE)
        height = reads.rows.output_size(sizes[number])
        if height < 1:
            continue
        layer_inputs.append(reads)
        sizes.append(height)
    if not layer_inputs:
        layer_inputs, sizes = [LayerInputs((0,), POINTWISE, POINTWISE)], [size, size]
    read = {number for reads in layer_inputs for number in reads.maps}
    outputs = [number for number in range(1, len(sizes)) if number not in read]
    return StripScheduler(layer_inputs, 1, outputs, idle_rows=draw(st.integers(0, 1))), sizes


def rows_of_whole(scheduler, image):
    """Every map as it is computed at once: a layer sums the rows of its field, and its inputs."""
    maps = [image]
    for reads in scheduler.layer_inputs:
        rows = reads.rows
        padded = [np.pad(maps[number], (rows.before, rows.after)) for number in reads.maps]
        size = rows.output_size(len(maps[reads.maps[0]]))
        starts = [row * rows.stride for row in range(size)]
        maps.append(np.array([sum(x[s : s + rows.extent].sum() for x in padded) for s in starts]))
    return maps


@settings(max_examples=200, deadline=None)
@given(networks(), st.integers(1, 8))
def test_rows_computed_in_strips_are_those_of_the_whole(network, strips_a_map):
    scheduler, sizes = network
    assert [height for height, _ in scheduler.sizes([(sizes[0], 1)])] == sizes
    image = np.random.default_rng(0).integers(1, 9, sizes[0])
    schedule = scheduler.schedule(sizes, strips_a_map)
    held = {number: np.zeros(0, int) for number in scheduler.held}
    for strips, zeros, computed, evicted in zip(*schedule, strict=True):
        stores, new = {0: image}, {}
        cut = iter(zip(strips, zeros, strict=True))
        for layer, reads in enumerate(scheduler.layer_inputs):
            args = []
            for number in reads.maps:
                if scheduler.is_synchronized(layer, number):
                    args.append(new[number])
                    continue
                (first, count), around = next(cut)
                assert first >= 0
                assert first + count <= len(stores[number])
                args.append(np.pad(stores[number][first : first + count], tuple(around)))
            rows = reads.rows
            size = (len(args[0]) - rows.extent) // rows.stride + 1
            starts = [row * rows.stride for row in range(size)]
            number = layer + 1
            new[number] = np.array([sum(x[s : s + rows.extent].sum() for x in args) for s in starts], int)
            assert scheduler.idle_rows <= size <= -(-sizes[number] // strips_a_map)
            if number in held:
                count = computed[scheduler.held.index(number)]
                stores[number] = np.concatenate([held[number], new[number][:count]])
        held = {number: stores[number][first:] for number, first in zip(scheduler.held, evicted, strict=True)}
    whole = rows_of_whole(scheduler, image)
    for number in scheduler.outputs:
        np.testing.assert_array_equal(held[number], whole[number])


@pytest.mark.parametrize("strips_a_map", [4, 10])
def test_a_chain_of_convolutions_holds_a_few_rows_of_each_map(strips_a_map):
    field = ReceptiveField(3, 1, 1, 1)
    layer_inputs = [LayerInputs((number,), field, field) for number in range(6)]
    scheduler = StripScheduler(layer_inputs, 1, [6], idle_rows=1)
    schedule = scheduler.schedule([40] * 7, strips_a_map)
    computed = np.cumsum(schedule.evicted, axis=0)
    assert scheduler.held == (1, 2, 3, 4, 5, 6)
    assert not schedule.evicted[:, -1].any()  # of the output nothing is evicted
    assert (computed[-1, :-1] == 39).all()  # of the others all but what the last field began with
    assert schedule.strips[..., 1].max() <= 40 // strips_a_map + 2


def test_a_layer_that_has_nothing_to_make_reads_no_more_than_it_must():
    field = ReceptiveField(3, 2, 1, 1)
    for idle_rows, read in ((0, 1), (1, 3)):  # of a field of three at a stride of two
        scheduler = StripScheduler(
            [LayerInputs((0,), field, field), LayerInputs((1,), field, field)], 1, [2], idle_rows=idle_rows
        )
        schedule = scheduler.schedule([16, 8, 4], 8)
        idle = schedule.computed[:, -1] == 0
        assert idle.any()
        assert set((schedule.strips[idle, 1, 1] + schedule.zeros[idle, 1].sum(axis=-1)).tolist()) == {read}
