"""`@app.tensors` and declared inputs and outputs, served: arrays, errors and ModelMetadata."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from anyserve import Code, InferenceError
from support.command import Instance, serving

APP = """
    import numpy as np

    from anyserve import AnyServe, TensorSpec, Worker

    app = AnyServe()

    @app.tensors(
        type="add",
        inputs=[TensorSpec("a", "FP32"), TensorSpec("b", "FP32")],
        outputs=[TensorSpec("sum", "FP32")],
        platform="numpy",
        version="2",
    )
    def add(a, b):
        return {"sum": a + b}

    @app.tensors(type="mean", inputs=[TensorSpec("x", "FP64", (-1, 2))], outputs=[TensorSpec("mean", "FP64", (2,))])
    async def mean(x, context):
        return x.mean(axis=0)

    @app.tensors(type="half", outputs=[TensorSpec("half", "BF16")])
    def half(x):
        return {"half": x / 2}

    @app.tensors(type="broken", outputs=[TensorSpec("y", "INT64", (2,))])
    def broken(x):
        return {"y": np.zeros(int(x[0]), np.int64)}

    @app.tensors(type="free")
    def free(**arrays):
        return arrays

    @app.capability(type="declared", inputs=[TensorSpec("q", "BYTES", (1,))], outputs=[TensorSpec("a", "BYTES", ())])
    def declared(request):
        return {}

    @app.worker(capabilities=[{"type": "class"}], inputs=[TensorSpec("q", "UINT8", (-1, 3))], platform="onnx")
    class Class(Worker):
        def handle(self, request):
            return {}
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(APP, directory=tmp_path_factory.mktemp("arrays")) as instance:
        yield instance


def test_sync(instance: Instance) -> None:
    out = instance.client.infer("add", {"a": np.float32([1, 2]), "b": np.float32([3, 4])}).tensors()
    assert out["sum"].dtype == np.float32
    assert out["sum"].tolist() == [4, 6]


def test_async_with_one_bare_array(instance: Instance) -> None:
    out = instance.client.infer("mean", {"x": [[1.0, 2.0], [3.0, 4.0]]}).tensors()
    assert out["mean"].tolist() == [2.0, 3.0]


def test_declared_datatype_decides_how_the_output_is_sent(instance: Instance) -> None:
    reply = instance.client.infer("half", {"x": np.float32([1, 3])})
    assert [output.datatype for output in reply.outputs] == ["BF16"]
    assert reply.tensors()["half"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    "array",
    [
        np.array([True, False]),
        np.int8([-1, 2]),
        np.uint64([1 << 63]),
        np.float16([0.5]),
        np.zeros((2, 0, 3), np.float32),
        np.array(7, np.int32),
        np.array([b"\x00\xff", b""], dtype=object),
    ],
)
def test_arrays_of_every_kind_pass_through(instance: Instance, array: np.ndarray) -> None:
    out = instance.client.infer("free", {"x": array}).tensors()["x"]
    assert (out.shape, out.dtype) == (array.shape, array.dtype)
    assert out.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.float32([1])}, "input 'b' is missing"),
        ({"a": np.float32([1]), "b": np.float32([1]), "c": [1]}, "input 'c' is not known"),
        ({"a": np.int64([1]), "b": np.float32([1])}, r'input .*"a".*FP32.*INT64'),
        ({"a": np.float32([[1]]), "b": np.float32([1])}, 'input .*"a"'),
    ],
)
def test_inputs_that_do_not_fit(instance: Instance, arrays: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InferenceError, match=words) as caught:
        instance.client.infer("add", arrays)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_output_that_does_not_fit_its_declaration(instance: Instance) -> None:
    assert instance.client.infer("broken", {"x": [2]}).tensors()["y"].tolist() == [0, 0]
    with pytest.raises(InferenceError, match='"y"') as caught:
        instance.client.infer("broken", {"x": [3]})
    assert caught.value.code is Code.INTERNAL


def described(tensors: object) -> list[tuple[str, str, list[int]]]:
    return [(t.name, t.datatype, list(t.shape)) for t in tensors]  # type: ignore[attr-defined]


def test_model_metadata_of_declarations(instance: Instance) -> None:
    add = instance.client.model_metadata("add")
    assert (add.name, list(add.versions), add.platform) == ("add", ["2"], "numpy")
    assert described(add.inputs) == [("a", "FP32", [-1]), ("b", "FP32", [-1])]
    assert described(add.outputs) == [("sum", "FP32", [-1])]
    declared = instance.client.model_metadata("declared")
    assert described(declared.inputs) == [("q", "BYTES", [1])]
    assert described(declared.outputs) == [("a", "BYTES", [])]
    class_ = instance.client.model_metadata("class")
    assert (class_.platform, described(class_.inputs)) == ("onnx", [("q", "UINT8", [-1, 3])])
    free = instance.client.model_metadata("free")
    assert (described(free.inputs), described(free.outputs)) == ([], [])


def test_registrations_tell_the_capabilities(instance: Instance) -> None:
    registrations = [r for worker in instance.client.workers() for r in worker.registrations]
    assert {r.model_name: dict(r.capability) for r in registrations}["add"] == {"type": "add", "version": "2"}
    assert {r.max_concurrency for r in registrations} == {10}
