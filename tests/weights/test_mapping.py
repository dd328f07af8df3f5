"""Reading published weights: formats, names, shapes, and files that are not what they seem."""

import io
import pickle
import struct
import zipfile

import keras
import numpy as np
import pytest

from wsss.backbones.resnet38 import resnet38
from wsss.common.errors import UserError
from wsss.models.irn import irn_cam
from wsss.weights import read_tensors
from wsss.weights.mapping import load_tensors, published_tensors, published_variables
from wsss.weights.mxnet import from_mxnet


@pytest.fixture(scope="module")
def backbone():
    features = resnet38(width=1 / 32)
    return keras.Model(features.image, features.stage6)


def random_tensors(model, seed=0):
    generator = np.random.default_rng(seed)
    return {
        name: generator.uniform(0.1, 1, value.shape).astype("float32")
        for name, value in published_tensors(model).items()
    }


def read(data):
    return read_tensors(io.BytesIO(data))


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)
        assert actual[name].dtype == value.dtype


# -- names and shapes


def test_tensors_go_in_and_come_out_the_same(backbone):
    tensors = random_tensors(backbone)
    assert load_tensors(backbone, tensors) == []
    assert_same(published_tensors(backbone), tensors)


def test_kernels_are_transposed(backbone):
    tensors = random_tensors(backbone)
    load_tensors(backbone, tensors)
    kernel = keras.ops.convert_to_numpy(published_variables(backbone)["conv1a.weight"])
    assert kernel[2, 1, 0, 3] == tensors["conv1a.weight"][3, 0, 2, 1]


def test_a_missing_tensor_is_named_and_nothing_is_changed(backbone):
    before = published_tensors(backbone)
    tensors = random_tensors(backbone, seed=1)
    tensors["b4_1.conv_branch2b.weight"] = tensors.pop("b4_1.conv_branch2a.weight")
    with pytest.raises(UserError, match=r"tensor `b4_1.conv_branch2a.weight` is missing"):
        load_tensors(backbone, tensors)
    assert_same(published_tensors(backbone), before)


def test_a_tensor_under_another_prefix_is_pointed_at(backbone):
    tensors = random_tensors(backbone)
    tensors["encoder.conv1a.weight"] = tensors.pop("conv1a.weight")
    with pytest.raises(UserError, match=r"`conv1a.weight` is missing \(there is `encoder.conv1a.weight`\)"):
        load_tensors(backbone, tensors)


def test_the_first_mis_shaped_tensor_is_named(backbone):
    tensors = random_tensors(backbone)
    tensors["b3.conv_branch1.weight"] = np.zeros((1, 2, 3, 3), "float32")
    with pytest.raises(UserError, match=r"`b3.conv_branch1.weight` has shape \(1, 2, 3, 3\), expected"):
        load_tensors(backbone, tensors)


def test_left_over_tensors_are_reported_but_not_counters_and_aliases(backbone):
    tensors = {
        **random_tensors(backbone),
        "bn7.num_batches_tracked": np.zeros((), "int64"),
        "stage1.0.weight": np.zeros(1, "float32"),
        "fc.weight": np.zeros(1, "float32"),
    }
    assert load_tensors(backbone, tensors) == ["fc.weight"]


def test_irn_network_takes_its_tensors():
    model = irn_cam(classes=3, width=1 / 16)
    tensors = random_tensors(model)
    assert load_tensors(model, tensors) == []
    assert tensors["classifier.weight"].shape[0] == 3


# -- MXNet


def mxnet_file(arrays, version):
    """An MXNet parameter file, as written down in its source (`NDArray::Save`)."""
    kinds = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
    data = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        if version == 0:
            data += struct.pack("<I", array.ndim)
            data += struct.pack(f"<{array.ndim}I", *array.shape)
        else:
            data += struct.pack("<I", 0xF993FAC7 + version)
            data += struct.pack("<i", 0) if version > 1 else b""
            data += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        data += struct.pack("<iii", 1, 0, kinds[array.dtype.name]) + array.tobytes()
    data += struct.pack("<Q", len(arrays))
    for name in arrays:
        data += struct.pack("<Q", len(name)) + name.encode()
    return data


MXNET_ARRAYS = {
    "arg:conv1a_weight": np.arange(24, dtype="float32").reshape(2, 3, 2, 2),
    "arg:res4b3_branch2b1_weight": np.ones((1, 2), "float16"),
    "aux:bn2a_branch2a_moving_mean": np.arange(3, dtype="float64"),
}


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_version_of_mxnets_format_is_read(version):
    assert_same(read(mxnet_file(MXNET_ARRAYS, version)), MXNET_ARRAYS)


def test_mxnets_names_become_pytorchs():
    names = {
        "arg:conv1a_weight": "conv1a.weight",
        "arg:res2a_branch2a_weight": "b2.conv_branch2a.weight",
        "arg:res4b3_branch2b1_weight": "b4_3.conv_branch2b1.weight",
        "arg:res7a_branch1_weight": "b7.conv_branch1.weight",
        "arg:bn6a_branch2b2_gamma": "b6.bn_branch2b2.weight",
        "arg:bn5b2_branch2a_beta": "b5_2.bn_branch2a.bias",
        "aux:bn5b2_branch2a_moving_mean": "b5_2.bn_branch2a.running_mean",
        "aux:bn7_moving_var": "bn7.running_var",
        "arg:bn7_gamma": "bn7.weight",
    }
    renamed = from_mxnet({**dict.fromkeys(names, 0), "arg:linear1000_weight": 0, "fc8.weight": 0})
    assert list(renamed) == [*names.values(), "fc8.weight"]


@pytest.mark.parametrize("version", [0, 2])
def test_a_cut_mxnet_file_is_refused_wherever_it_is_cut(version):
    data = mxnet_file(MXNET_ARRAYS, version)
    for end in range(8, len(data), 7):
        with pytest.raises(UserError, match="damaged or cut off"):
            read(data[:end])


def test_an_mxnet_file_that_announces_too_much_asks_for_no_memory():
    data = struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<III", 2, 2**31, 2**31)
    data += struct.pack("<iii", 1, 0, 0)
    with pytest.raises(UserError, match="damaged or cut off"):
        read(data)


def test_sparse_arrays_are_refused():
    data = struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<Ii", 0xF993FAC9, 1)
    with pytest.raises(UserError, match="sparse"):
        read(data)


# -- PyTorch, without PyTorch


class Storage:
    """Stands for a torch storage in a pickle of ours."""

    def __init__(self, kind, key, length):
        self.identity = ("storage", kind, key, "cpu", length)


class Named:
    """A global of another module, pickled by its name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


def torch_pickle(tree):
    """A pickle in which `Named` becomes a global, and `Storage` a persistent id; protocol 2 as torch's."""
    stream = io.BytesIO()

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return value.identity if isinstance(value, Storage) else None

        def save(self, value, save_persistent_id=True):
            if isinstance(value, Named):
                self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
            elif isinstance(value, Call):
                self.save(value.function)
                self.save(value.arguments)
                self.write(b"R")
            else:
                super().save(value, save_persistent_id)

    Pickler(stream, 2).dump(tree)
    return stream.getvalue()


class Call:
    """A function applied to arguments, by the pickle's REDUCE."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


def tensor(key, length, shape, strides, offset=0, kind="FloatStorage"):
    storage = Storage(Named("torch", kind), key, length)
    rebuild = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, Call(Named("collections", "OrderedDict")))


def torch_zip(tree, storages, **extra):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", torch_pickle(tree))
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        for name, data in extra.items():
            archive.writestr(f"archive/{name}", data)
    return stream.getvalue()


def torch_legacy(tree, storages):
    data = b"".join(
        pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    data += torch_pickle(tree) + pickle.dumps(list(storages), 2)
    for array in storages.values():
        data += struct.pack("<q", array.size) + array.tobytes()
    return data


SIX = np.arange(6, dtype="float32")


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
def test_both_of_pytorchs_formats_are_read(write):
    tree = {
        "module.a": tensor("0", 6, (2, 3), (3, 1)),
        "b": tensor("0", 6, (3, 2), (1, 3)),  # a transposed view of the same storage
        "c": tensor("1", 2, (1,), (1,), offset=1, kind="LongStorage"),
    }
    actual = read(write(tree, {"0": SIX, "1": np.array([7, 8])}))
    expected = {"a": SIX.reshape(2, 3), "b": SIX.reshape(2, 3).T, "c": np.array([8])}
    assert_same(actual, expected)


def nest(leaf, wrap, depth=60):
    """A value that takes `2 ** depth` steps to be printed, hashed or walked through."""
    for _ in range(depth):
        leaf = wrap(leaf)
    return leaf


def test_a_nest_of_shared_values_takes_no_time():
    part = tensor("0", 6, (6,), (1,))
    dicts = nest({}, lambda value: {"a": value, "b": value})
    for write in (torch_zip, torch_legacy):
        assert_same(read(write({"a": part, "b": dicts}, {"0": SIX})), {"a": SIX})


@pytest.mark.parametrize("use", [b"\x88", b"}(h\x00K\x01u", b"(h\x00Q", b"h\x00h\x00\x93"])
def test_a_nest_of_tuples_as_a_name_takes_no_time(use):
    """Memo 0 is the nest, and `use` takes it as a name. By hand: Python's own pickler would hash it."""
    data = b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"q\x00" + use + b"."
    numbers = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    with pytest.raises(UserError, match="damaged"):
        read(numbers + data)


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
@pytest.mark.parametrize("shape", [(-1, 6), (0, -1), (2**70,), ("6",)])
def test_shapes_that_no_array_has_are_refused(write, shape):
    with pytest.raises(UserError, match="damaged"):
        read(write({"a": tensor("0", 6, shape, (1,) * len(shape))}, {"0": SIX}))


def test_a_compressed_archive_is_not_unpacked():
    """A megabyte of zeros packs into a kilobyte, and so on."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", torch_pickle({"a": tensor("0", 6, (6,), (1,))}))
        archive.writestr("archive/data/0", SIX.tobytes())
    with pytest.raises(UserError, match="compressed"):
        read(stream.getvalue())


@pytest.mark.parametrize("system", [True, None, [], 1])
def test_a_pickle_that_does_not_describe_its_machine_is_refused(system):
    data = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system))
    with pytest.raises(UserError, match="damaged"):
        read(data)


def test_weights_inside_a_training_checkpoint_are_found():
    tree = {"epoch": 3, "best": 0.5, "state_dict": {"a": tensor("0", 6, (6,), (1,))}}
    assert_same(read(torch_zip(tree, {"0": SIX})), {"a": SIX})


def test_bfloat16_becomes_float32():
    bits = (np.array([1.5, -2.0], "float32").view("<u4") >> 16).astype("<u2")
    tree = {"a": tensor("0", 2, (2,), (1,), kind="BFloat16Storage")}
    assert_same(read(torch_zip(tree, {"0": bits})), {"a": np.array([1.5, -2.0], "float32")})


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_in_a_pickle_is_executed(tmp_path, protocol):
    target = tmp_path / "executed"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Bomb(target)}, protocol))
    with pytest.raises(UserError):
        read(stream.getvalue())
    assert not target.exists()


def test_an_object_that_is_no_tensor_is_named():
    with pytest.raises(UserError, match=r"it names `argparse.Namespace`"):
        read(torch_zip({"args": Call(Named("argparse", "Namespace"))}, {}))


@pytest.mark.parametrize(
    "broken",
    [
        tensor("0", 6, (2, 4), (4, 1)),
        tensor("0", 6, (2, 3), (3, 1), offset=1),
        tensor("0", 6, (2, 3), (3, -1)),
        tensor("0", 6, (10**6, 10**6), (0, 0)),
        tensor("0", 6, (2, 3), (3,)),
        tensor("0", 7, (2, 3), (3, 1)),
        tensor("absent", 6, (2, 3), (3, 1)),
    ],
    ids=["too large", "offset", "backwards", "without end", "strides", "length", "absent"],
)
@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
def test_tensors_that_reach_beyond_their_storage_are_refused(broken, write):
    with pytest.raises(UserError, match="damaged"):
        read(write({"a": broken}, {"0": SIX}))


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
def test_a_cut_file_is_refused_wherever_it_is_cut(write):
    data = write({"a": tensor("0", 6, (2, 3), (3, 1))}, {"0": SIX})
    for end in range(0, len(data) - 1, 11):
        with pytest.raises(UserError):
            read(data[:end])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither a PyTorch"),
        (b"hello, world", "neither a PyTorch"),
        (torch_zip({}, {}), "no named tensors"),
        (torch_zip([1, 2], {}), "no named tensors"),
        (torch_zip({}, {}, **{"constants.pkl": b""}), "TorchScript"),
        (torch_zip({}, {}, byteorder=b"big"), "big-endian"),
        (pickle.dumps({"a": 1}, 2), "not one of PyTorch's"),
    ],
    ids=["empty", "text", "no tensors", "a list", "script", "big-endian", "other pickle"],
)
def test_other_files_are_refused_with_the_reason(data, message):
    with pytest.raises(UserError, match=message):
        read(data)


def test_an_archive_of_something_else_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "text")
    with pytest.raises(UserError, match="not one of PyTorch's"):
        read(stream.getvalue())


# -- PyTorch itself


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_written_by_pytorch_are_read(zipped, torch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "module.a.weight": torch.randn((4, 3, 2, 2), generator=generator),
        "module.a.bias": torch.nn.Parameter(torch.randn(4, generator=generator)),
        "module.view": torch.randn((3, 5), generator=generator).t()[1:],
        "module.half": torch.randn((2, 2), generator=generator).half(),
        "module.brain": torch.randn((2, 2), generator=generator).bfloat16(),
        "module.count": torch.tensor(7),
        "module.empty": torch.zeros((0, 3)),
        "module.flags": torch.tensor([True, False]),
    }
    path = tmp_path / "weights.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    with path.open("rb") as stream:
        actual = read_tensors(stream)
    expected = {
        name.removeprefix("module."): value.detach().float().numpy()
        if value.dtype == torch.bfloat16
        else value.detach().numpy()
        for name, value in tensors.items()
    }
    assert_same(actual, expected)


def test_a_module_of_pytorch_gives_its_state_dict(torch, tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    with (tmp_path / "weights.pth").open("rb") as stream:
        actual = read_tensors(stream)
    assert_same(actual, {name: value.numpy() for name, value in module.state_dict().items()})
    torch.save(module, tmp_path / "module.pth")
    with (tmp_path / "module.pth").open("rb") as stream, pytest.raises(UserError, match="state_dict"):
        read_tensors(stream)
