"""What a client gets when a handler fails, and what stands in the log instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anyserve import Code, InferenceError
from support.command import Instance, serving

APP = """
    import asyncio

    from anyserve import AnyServe, Code, InferenceError, ModelInferResponse

    app = AnyServe()

    @app.capability(type="ok")
    def ok(request):
        return {"ok": [True]}

    def text(request):
        return request.tensors()["text"][0].decode("utf-8", "surrogateescape")

    @app.capability(type="inference-error")
    def inference_error(request):
        raise InferenceError(text(request), "the handler chose this")

    @app.capability(type="async-inference-error")
    async def async_inference_error(request):
        raise InferenceError(text(request), "the handler chose this")

    @app.capability(type="raise")
    def raise_(request):
        raise RuntimeError(text(request))

    @app.capability(type="async-raise")
    async def async_raise(request):
        raise RuntimeError(text(request))

    @app.capability(type="bare-key-error")
    def bare_key_error(request):
        {}["wanted"]

    @app.capability(type="no-message")
    def no_message(request):
        raise ZeroDivisionError

    class Unprintable(Exception):
        def __str__(self):
            raise ValueError("it has no text")

    @app.capability(type="unprintable")
    def unprintable(request):
        raise Unprintable

    @app.capability(type="error-as-message")
    def error_as_message(request):
        try:
            {}["wanted"]
        except KeyError as error:
            raise InferenceError(Code.OUT_OF_RANGE, error)

    @app.capability(type="stream-error-as-message")
    def stream_error_as_message(request):
        raise InferenceError(Code.OUT_OF_RANGE, 404)
        yield

    @app.capability(type="next-of-nothing")
    def next_of_nothing(request):
        return next(iter(()))

    @app.capability(type="stream-next-of-nothing", stream=True)
    def stream_next_of_nothing(request, context, stream):
        next(iter(()))

    @app.capability(type="yields-undecodable")
    def yields_undecodable(request):
        yield {"n": [1]}
        raise OSError("no such file: " + chr(0xDCFF))

    @app.capability(type="async-cancels-itself")
    async def async_cancels_itself(request):
        inner = asyncio.ensure_future(asyncio.sleep(60))
        inner.cancel()
        await inner

    @app.capability(type="sync-cancelled-error")
    def sync_cancelled_error(request):
        raise asyncio.CancelledError

    @app.capability(type="returns-none")
    def returns_none(request):
        pass

    @app.capability(type="returns-text")
    async def returns_text(request):
        return "text"

    @app.capability(type="returns-ragged")
    def returns_ragged(request):
        return {"x": [[1, 2], [3]]}

    @app.capability(type="returns-objects")
    def returns_objects(request):
        return {"x": [object()]}

    @app.capability(type="yields-text")
    def yields_text(request):
        yield {"n": [1]}
        yield "text"

    @app.capability(type="fails-midway")
    def fails_midway(request):
        yield {"n": [1]}
        yield {"n": [2]}
        raise InferenceError(Code.DATA_LOSS, "the rest is lost")

    @app.capability(type="async-fails-midway")
    async def async_fails_midway(request):
        yield {"n": [1]}
        yield {"n": [2]}
        raise RuntimeError("the rest is lost")

    @app.capability(type="stream-returns", stream=True)
    def stream_returns(request, context, stream):
        return {"n": [1]}

    @app.capability(type="stream-send-on-loop", stream=True)
    async def stream_send_on_loop(request, context, stream):
        stream.send({"n": [1]})
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(APP, directory=tmp_path_factory.mktemp("errors")) as instance:
        yield instance


def failure(instance: Instance, model: str, text: str = "") -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        instance.client.infer(model, {"text": [text.encode("utf-8", "surrogateescape")]}, timeout=10)
    return caught.value


def stream_failure(instance: Instance, model: str) -> tuple[list[int], InferenceError]:
    got: list[int] = []
    replies = instance.client.stream(model, {}, timeout=10)
    with pytest.raises(InferenceError) as caught:
        got.extend(int(reply.tensors()["n"][0]) for reply in replies)
    return got, caught.value


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_inference_error_chooses_the_code(instance: Instance, code: Code) -> None:
    for model in ("inference-error", "async-inference-error"):
        error = failure(instance, model, code.name)
        assert (error.code, error.message) == (code, "the handler chose this")


@pytest.mark.parametrize("model", ["raise", "async-raise"])
def test_other_exceptions_are_internal_without_a_traceback(instance: Instance, model: str) -> None:
    error = failure(instance, model, f"{model} failed")
    assert (error.code, error.message) == (Code.INTERNAL, f"{model} failed")
    logged = instance.wait_log("handler failed", capability=f"{{type: {model}}}")
    assert f"RuntimeError: {model} failed" in logged["traceback"]
    assert "my_app.py" in logged["traceback"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bare-key-error", "'wanted'"),
        ("no-message", "ZeroDivisionError"),
        ("returns-none", "a handler returns a ModelInferResponse or a mapping of arrays, got NoneType"),
        ("returns-text", "a handler returns a ModelInferResponse or a mapping of arrays, got str"),
    ],
)
def test_message_of_an_internal_error(instance: Instance, model: str, message: str) -> None:
    error = failure(instance, model)
    assert (error.code, error.message) == (Code.INTERNAL, message)


@pytest.mark.parametrize("model", ["returns-ragged", "returns-objects"])
def test_arrays_that_cannot_be_sent_are_named(instance: Instance, model: str) -> None:
    error = failure(instance, model)
    assert error.code is Code.INTERNAL
    assert '"x"' in error.message


@pytest.mark.parametrize("text", ["two\nlines", "Grüße, 世界 ☃", 'quotes " and \\', "tab\there", "\x01\x7f"])
def test_messages_arrive_as_they_are(instance: Instance, text: str) -> None:
    assert failure(instance, "raise", text).message == text


def test_undecodable_text_in_a_message_is_no_obstacle(instance: Instance) -> None:
    # As in names of files: a lone surrogate cannot be put into a protobuf string.
    error = failure(instance, "raise", "no such file: \udcff.bin")
    assert error.code is Code.INTERNAL
    assert "no such file" in error.message


def test_undecodable_text_in_the_message_of_a_stream(instance: Instance) -> None:
    _, error = stream_failure(instance, "yields-undecodable")
    assert error.code is Code.INTERNAL
    assert "no such file" in error.message


@pytest.mark.parametrize("length", [5_000, 20_000, 1_000_000])
def test_long_messages_keep_their_code(instance: Instance, length: int) -> None:
    # Clients refuse trailers above 8 or 16 KiB, and would see RESOURCE_EXHAUSTED instead.
    error = failure(instance, "raise", "long " * (length // 5))
    assert error.code is Code.INTERNAL
    assert error.message.startswith("long long ")


def test_message_that_is_no_text(instance: Instance) -> None:
    """`raise InferenceError(code, error)` is easily written, and means the error's text."""
    error = failure(instance, "error-as-message")
    assert (error.code, error.message) == (Code.OUT_OF_RANGE, "'wanted'")
    _, error = stream_failure(instance, "stream-error-as-message")
    assert (error.code, error.message) == (Code.OUT_OF_RANGE, "404")


def test_exception_without_a_text(instance: Instance) -> None:
    assert failure(instance, "unprintable").code is Code.INTERNAL


def test_stop_iteration_of_a_handler_is_an_error_like_any_other(instance: Instance) -> None:
    # asyncio refuses StopIteration as a future's exception: the exchange must end all the same.
    assert failure(instance, "next-of-nothing").code is Code.INTERNAL
    assert stream_failure(instance, "stream-next-of-nothing")[1].code is Code.INTERNAL


@pytest.mark.parametrize("model", ["async-cancels-itself", "sync-cancelled-error"])
def test_cancellation_inside_a_handler_ends_its_exchange(instance: Instance, model: str) -> None:
    # It must not be taken for the loss of the connection.
    assert failure(instance, model).code in (Code.CANCELLED, Code.INTERNAL)


@pytest.mark.parametrize("form", ["def", "async def"])
def test_exit_in_a_handler_does_not_end_the_worker(tmp_path: Path, form: str) -> None:
    source = f"""
        import sys

        from anyserve import AnyServe

        app = AnyServe()

        @app.capability(type="ok")
        def ok(request):
            return {{"ok": [True]}}

        @app.capability(type="exits")
        {form} exits(request):
            sys.exit("usage: something")
    """
    with serving(source, directory=tmp_path) as instance:
        error = failure(instance, "exits")
        assert (error.code, error.message) == (Code.INTERNAL, "usage: something")
        assert instance.client.infer("ok", {}).tensors()["ok"].tolist() == [True]
        assert len(instance.logs("worker started")) == 1


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("fails-midway", Code.DATA_LOSS, "the rest is lost"),
        ("async-fails-midway", Code.INTERNAL, "the rest is lost"),
    ],
)
def test_stream_that_fails_midway(instance: Instance, model: str, code: Code, message: str) -> None:
    got, error = stream_failure(instance, model)
    assert got == [1, 2]
    assert (error.code, error.message) == (code, message)


def test_yielding_what_is_no_reply(instance: Instance) -> None:
    got, error = stream_failure(instance, "yields-text")
    assert got == [1]
    assert error.code is Code.INTERNAL
    assert "got str" in error.message


@pytest.mark.parametrize(
    ("model", "words"), [("stream-returns", "sends its replies"), ("stream-send-on-loop", "await stream.asend")]
)
def test_misuse_of_a_stream_says_what_to_do(instance: Instance, model: str, words: str) -> None:
    got, error = stream_failure(instance, model)
    assert got == []
    assert error.code is Code.INTERNAL
    assert words in error.message


def test_the_worker_survives_all_of_it(instance: Instance) -> None:
    for _ in range(20):
        failure(instance, "raise", "again")
    assert instance.client.infer("ok", {}).tensors()["ok"].tolist() == [True]
