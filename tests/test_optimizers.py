"""Parameter groups, weight decay and the polynomial schedule."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.golden import golden_cases
from wsss.optimizers import (
    GroupedAdamW,
    GroupedSGD,
    ParameterGroup,
    PolynomialSchedule,
    layer_groups,
    match_groups,
)

PUBLISHED_GROUPS = (
    ParameterGroup("kernel_old", 1, 1),
    ParameterGroup("bias_old", 2, 0),
    ParameterGroup("kernel_new", 10, 1),
    ParameterGroup("bias_new", 20, 0),
)


@pytest.fixture
def float64():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def variables_named(values, *names):
    return [keras.Variable(value, name=name) for value, name in zip(values, names, strict=True)]


@golden_cases("h_poly_sgd")
def test_published_steps_are_reproduced_to_the_last_digits(case, float64):
    variables = variables_named(case["p0"], "kernel_old", "bias_old", "kernel_new", "bias_new")
    optimizer = GroupedSGD(
        PolynomialSchedule(float(case["lr"]), int(case["max_step"])),
        momentum=float(case["effective_momentum"]),
        weight_decay=float(case["weight_decay_arg"]),
        groups=PUBLISHED_GROUPS,
    )
    multipliers = [group.learning_rate_multiplier for group in PUBLISHED_GROUPS]
    for step, gradients in enumerate(case["grads"]):
        rate = ops.convert_to_numpy(optimizer.learning_rate)
        np.testing.assert_allclose(rate * np.array(multipliers), case["lr_used"][step], rtol=1e-12)
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in gradients], variables)
        for variable, expected in zip(variables, case["params"][step], strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, rtol=0, atol=1e-12)


def test_learning_rate_falls_to_its_last_positive_value_and_stays():
    schedule = PolynomialSchedule(0.1, 4, power=1.0)
    rates = [float(schedule(step)) for step in range(7)]
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025, 0.025, 0.025, 0.025], rtol=1e-6)


def test_schedule_needs_at_least_one_step():
    with pytest.raises(ValueError, match="`total_steps` must be at least 1"):
        PolynomialSchedule(0.1, 0)


def test_without_groups_and_momentum_it_is_plain_gradient_descent():
    variables = variables_named(np.ones((1, 3), "float32"), "a")
    GroupedSGD(0.5).apply([ops.convert_to_tensor([1.0, 2.0, 4.0])], variables)
    np.testing.assert_allclose(ops.convert_to_numpy(variables[0]), [0.5, 0.0, -1.0])


def test_weight_decay_enters_the_momentum():
    """Worked out by hand: p=1, gradient 0, wd=0.5, momentum=0.5, lr=1."""
    (variable,) = variables = variables_named(np.ones((1, 1), "float32"), "a")
    optimizer = GroupedSGD(1.0, momentum=0.5, weight_decay=0.5)
    optimizer.apply([ops.zeros(1)], variables)  # velocity 0.5, p 0.5
    np.testing.assert_allclose(ops.convert_to_numpy(variable), [0.5])
    optimizer.apply([ops.zeros(1)], variables)  # velocity 0.25 + 0.25, p 0.0
    np.testing.assert_allclose(ops.convert_to_numpy(variable), [0.0])


def test_nesterov_looks_ahead_along_the_velocity():
    """Worked out by hand: gradient 1 twice, momentum 0.5, lr 1: steps 1 + 0.5, then 1 + 0.5 * 1.5."""
    (variable,) = variables = variables_named(np.zeros((1, 1), "float32"), "a")
    optimizer = GroupedSGD(1.0, momentum=0.5, nesterov=True)
    for expected in (-1.5, -3.25):
        optimizer.apply([ops.ones(1)], variables)
        np.testing.assert_allclose(ops.convert_to_numpy(variable), [expected])


def test_adamw_without_groups_equals_keras():
    generator = np.random.default_rng(0)
    start = generator.normal(size=(1, 6)).astype("float32")
    results = []
    for optimizer in (
        GroupedAdamW(0.01, weight_decay=0.1),
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
    ):
        (variable,) = variables = variables_named(start, "a")
        for step in range(3):
            optimizer.apply([ops.convert_to_tensor(start[0] * (step + 1))], variables)
        results.append(ops.convert_to_numpy(variable))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_adamw_scales_step_and_decay_by_the_group():
    """One step of Adam moves by the learning rate, whatever the gradient's size."""
    variables = variables_named(np.ones((2, 1), "float32"), "slow", "fast")
    groups = (ParameterGroup("fast", 10.0, 0.0),)
    GroupedAdamW(0.01, weight_decay=0.5, groups=groups).apply([ops.ones(1), ops.ones(1)], variables)
    slow, fast = (float(ops.convert_to_numpy(variable)[0]) for variable in variables)
    np.testing.assert_allclose([slow, fast], [1 - 0.01 * 0.5 - 0.01, 1 - 0.1], rtol=1e-5)


def test_excluded_variables_do_not_decay():
    variables = variables_named(np.ones((2, 1), "float32"), "kernel", "scale")
    optimizer = GroupedSGD(1.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["scale"])
    optimizer.apply([ops.zeros(1), ops.zeros(1)], variables)
    assert [float(ops.convert_to_numpy(variable)[0]) for variable in variables] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("conv1a/kernel", (1, 1)),
        ("fc_edge6/bias", (2, 0)),
        ("bn7/beta", (2, 0)),
        ("bn7/gamma", (1, 0)),
        ("fc8/kernel", (10, 1)),
        ("seam/fc8/bias", (20, 0)),
        ("seam/fc8/norm/gamma", (10, 0)),
        ("fc88/kernel", (1, 1)),
        ("depthwise/depthwise_kernel", (1, 1)),
    ],
)
def test_published_groups_tell_kernels_from_biases_and_old_from_new(path, expected):
    (group,) = match_groups(layer_groups(["fc8", "f9"]), [path])
    assert (group.learning_rate_multiplier, group.weight_decay_multiplier) == expected


def test_first_matching_group_decides():
    first, second = ParameterGroup("a", 3), ParameterGroup("ab", 5)
    assert match_groups([first, second], ["ab"]) == (first,)


@pytest.mark.parametrize(
    "arguments", [{"pattern": "("}, {"pattern": "a", "learning_rate_multiplier": -1.0}], ids=str
)
def test_bad_groups_are_named(arguments):
    with pytest.raises(ValueError, match="must"):
        ParameterGroup(**arguments)


@pytest.mark.parametrize("optimizer_class", [GroupedSGD, GroupedAdamW])
def test_optimizer_survives_its_configuration(optimizer_class):
    optimizer = optimizer_class(
        PolynomialSchedule(0.1, 7), weight_decay=0.25, groups=layer_groups(["head"]), global_clipnorm=1.0
    )
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, optimizer_class)
    assert again.groups == optimizer.groups
    assert again.get_config() == optimizer.get_config()


def small_model(**options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(8, name="body"), keras.layers.Dense(2, name="head")]
    )
    model.compile(
        GroupedSGD(
            PolynomialSchedule(0.05, 10),
            momentum=0.9,
            weight_decay=1e-2,
            groups=layer_groups(["head"]),
            **options,
        ),
        loss="mse",
    )
    return model


def small_data():
    generator = np.random.default_rng(1)
    return generator.normal(size=(16, 4)).astype("float32"), generator.normal(size=(16, 2)).astype("float32")


def test_training_resumes_from_a_saved_model(tmp_path):
    x, y = small_data()
    straight = small_model()
    straight.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0)
    stopped = small_model()
    stopped.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    stopped.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    resumed.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_mixed_precision_trains_with_loss_scaling(jit_compile):
    x, y = small_data()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = small_model()
        model.compile(GroupedSGD(0.01, groups=layer_groups(["head"])), loss="mse", jit_compile=jit_compile)
        history = model.fit(x, y, batch_size=8, epochs=5, verbose=0)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.backends("tensorflow", reason="tf.distribute")
@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_two_replicas_equal_one(clip_norm, two_replicas):
    x, y = small_data()
    one = small_model(global_clipnorm=clip_norm)
    one.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    with two_replicas.scope():
        two = small_model(global_clipnorm=clip_norm)
    two.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for first, second in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [GroupedSGD, GroupedAdamW])
def test_clipping_takes_the_norm_of_all_gradients_before_the_groups(optimizer):
    variables = [keras.Variable([0.0], name=name) for name in ("first", "second")]
    groups = [ParameterGroup(pattern="second", learning_rate_multiplier=10.0)]
    clipped = optimizer(1.0, weight_decay=0.0, groups=groups, global_clipnorm=1.0)
    seen = clipped._clip_gradients([keras.ops.array([3.0]), keras.ops.array([4.0])])
    np.testing.assert_allclose(np.concatenate(seen), [0.6, 0.8], rtol=1e-6)
    if optimizer is GroupedSGD:
        clipped.apply([keras.ops.array([3.0]), keras.ops.array([4.0])], variables)
        np.testing.assert_allclose([float(v.value[0]) for v in variables], [-0.6, -8.0], rtol=1e-6)
