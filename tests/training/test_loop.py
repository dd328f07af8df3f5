"""When a model in training is evaluated."""

from hypothesis import given
from hypothesis import strategies as st

from wsss.training.loop import EVALUATED_STEPS, is_evaluated_after


@given(epochs=st.integers(1, 400), steps=st.integers(1, 3000))
def test_evaluations_are_at_most_some_steps_apart_or_ten_in_all(epochs, steps):
    due = [epoch for epoch in range(epochs) if is_evaluated_after(epoch, epochs=epochs, steps=steps)]
    gaps = [after - before for before, after in zip([-1, *due], due, strict=False)]

    assert due[-1] == epochs - 1
    assert max(gaps) == 1 or max(gaps) * steps <= EVALUATED_STEPS
    assert len(due) >= min(epochs, 10)


def test_epochs_of_few_steps_are_not_each_evaluated():
    due = [epoch for epoch in range(180) if is_evaluated_after(epoch, epochs=180, steps=1)]

    assert len(due) == 10
