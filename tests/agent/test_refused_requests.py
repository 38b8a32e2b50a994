"""Requests that the agent refuses by itself: their status, a message that names what was wrong, no worker touched."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from anyserve._proto.grpc_predict_v2_pb2 import ServerLiveRequest
from anyserve.errors import Code
from support.client import Client, failure
from support.instances import Instance, StartInstance
from support.wire import key, length_delimited, query_metadata, reply, request, stream_reply, varint

NAME = length_delimited(1, "echo")


async def assert_untouched(instance: Instance) -> None:
    """No worker was even connected to, and the agent serves."""
    assert [worker.connections for worker in instance.workers] == [[]] * len(instance.workers)
    assert (await instance.client.ServerLive(ServerLiveRequest())).live


async def test_unknown_model_is_not_found(instance: Instance, client: Client) -> None:
    await instance.worker("echo", capability={"type": "echo"})
    error = await client.refused(request("chat"))
    assert error.code is Code.NOT_FOUND
    assert "chat" in error.message
    await assert_untouched(instance)


async def test_a_close_name_is_suggested(instance: Instance, client: Client) -> None:
    await instance.worker("chat")
    error = await client.refused(request("chatt"))
    assert error.code is Code.NOT_FOUND
    assert "chatt" in error.message
    assert '"chat"' in error.message


async def test_unknown_version_is_not_found_and_the_versions_are_named(instance: Instance, client: Client) -> None:
    await instance.worker("echo", "7")
    error = await client.refused(request("echo", version="8"))
    assert error.code is Code.NOT_FOUND
    assert "8" in error.message
    assert "7" in error.message
    await assert_untouched(instance)


async def test_a_query_that_nothing_matches_is_not_found(instance: Instance, client: Client) -> None:
    await instance.worker("echo", capability={"type": "echo"})
    error = await client.refused(request("echo"), query={"type": "chat", "model": "llama-*"})
    assert error.code is Code.NOT_FOUND
    assert "chat" in error.message
    assert "llama-*" in error.message
    await assert_untouched(instance)


async def test_not_found_without_any_worker(client: Client) -> None:
    assert (await client.refused(request("echo"))).code is Code.NOT_FOUND


async def test_empty_name_and_no_query_is_invalid(instance: Instance, client: Client) -> None:
    await instance.worker("echo")
    error = await client.refused(request(raw=b"x"))
    assert error.code is Code.INVALID_ARGUMENT
    assert "model_name" in error.message
    await assert_untouched(instance)


async def test_no_bytes_at_all_are_a_request_without_a_name(client: Client) -> None:
    assert (await client.refused(b"")).code is Code.INVALID_ARGUMENT


def parameter_entry(name: str, *values: bytes) -> bytes:
    """An entry of `parameters` with an InferParameter of these bytes, once for each."""
    return length_delimited(4, length_delimited(1, name) + b"".join(length_delimited(2, value) for value in values))


INT_5, NO_VALUE = key(2, 0) + varint(5), b""


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(parameter_entry("anyserve_capability", length_delimited(3, "type=x")), id="capability"),
        pytest.param(parameter_entry("anyserve_timeout_ms", INT_5), id="timeout"),
        pytest.param(parameter_entry("anyserve_error_code", INT_5), id="error-code"),
        pytest.param(parameter_entry("anyserve_of_tomorrow", INT_5), id="not-yet-used"),
        pytest.param(parameter_entry("anyserve_", INT_5), id="prefix-alone"),
        pytest.param(parameter_entry("anyserve_timeout_ms", NO_VALUE), id="empty-value"),
        pytest.param(parameter_entry("anyserve_timeout_ms"), id="no-value"),
        pytest.param(parameter_entry("anyserve_timeout_ms", INT_5, NO_VALUE), id="value-merged-with-an-empty-one"),
        pytest.param(
            parameter_entry("anyserve_timeout_ms", INT_5) + parameter_entry("anyserve_timeout_ms", NO_VALUE),
            id="replaced-by-an-empty-value",
        ),
    ],
)
async def test_a_reserved_parameter_is_invalid(instance: Instance, client: Client, entries: bytes) -> None:
    await instance.worker("echo", answer=lambda _: b"")
    error = await client.refused(NAME + entries)
    assert error.code is Code.INVALID_ARGUMENT
    assert "anyserve_" in error.message
    await assert_untouched(instance)


@pytest.mark.parametrize("name", ["Anyserve_x", "any", "xanyserve_", "anyserve", "anyserve-x"])
async def test_other_parameters_are_not_reserved(instance: Instance, client: Client, name: str) -> None:
    await instance.worker("echo", answer=lambda _: b"")
    await client.infer(NAME + parameter_entry(name, INT_5))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("", "x", id="no-key"),
        pytest.param("_a", "x", id="key-starts-with-underscore"),
        pytest.param(".a", "x", id="key-starts-with-dot"),
        pytest.param("k" * 65, "x", id="key-too-long"),
        pytest.param("k", "", id="empty-pattern"),
        pytest.param("k", ">=", id="no-number"),
        pytest.param("k", ">=abc", id="not-a-number"),
        pytest.param("k", "<1e3", id="exponent"),
        pytest.param("k", ">0x10", id="hexadecimal"),
        pytest.param("k", "<=1.", id="half-a-decimal"),
        pytest.param("k", ">NaN", id="nan"),
        pytest.param("k", "!=", id="not-equal-to-nothing"),
        pytest.param("k", "a||b", id="empty-alternative"),
        pytest.param("k", "|a", id="empty-first-alternative"),
        pytest.param("k", "a|", id="empty-last-alternative"),
        pytest.param("k", "50%", id="percent-alone"),
        pytest.param("k", "%zz", id="percent-without-hex"),
        pytest.param("k", "%f", id="percent-with-one-digit"),
        pytest.param("k", "%ff%fe", id="not-utf-8"),
        pytest.param("k", "x" * 1025, id="pattern-too-long"),
        pytest.param("k-bin", b"\x00\xff", id="binary"),
    ],
)
async def test_a_malformed_query_is_invalid(instance: Instance, client: Client, name: str, value: str | bytes) -> None:
    await instance.worker("echo", capability={"k": "x"}, answer=lambda _: b"")
    metadata = ((f"x-cap-{name}", value),)
    error = await client.refused(request("echo"), metadata=metadata)
    assert error.code is Code.INVALID_ARGUMENT
    assert f"x-cap-{name}"[:70] in error.message
    assert await client.stream(metadata=metadata).failed() == error
    await assert_untouched(instance)


async def test_the_same_key_twice_is_invalid(instance: Instance, client: Client) -> None:
    await instance.worker("echo", capability={"type": "echo"})
    error = await client.refused(request(), metadata=(("x-cap-type", "echo"), ("x-cap-type", "echo")))
    assert error.code is Code.INVALID_ARGUMENT
    assert "x-cap-type" in error.message
    await assert_untouched(instance)


async def test_more_keys_than_a_capability_can_have_are_invalid(instance: Instance, client: Client) -> None:
    await instance.worker("echo", capability={"type": "echo"})
    query = {f"k{number}": "x" for number in range(33)}
    error = await client.refused(request(), metadata=query_metadata(query))
    assert error.code is Code.INVALID_ARGUMENT
    assert "33" in error.message


OVERLONG_VARINT = b"\xff" * 10 + b"\x01"

NOT_A_REQUEST = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "truncated-name": NAME[:-1],
    "truncated-tensor": NAME + length_delimited(7, bytes(100))[:-1],
    "truncated-unknown-field": NAME + length_delimited(1000, bytes(100))[:-1],
    "truncated-fixed64": NAME + key(1000, 1) + bytes(7),
    "truncated-fixed32": NAME + key(1000, 5) + bytes(3),
    "key-alone": NAME + key(2, 2),
    "truncated-length": NAME + key(7, 2) + b"\x80",
    "truncated-key": NAME + b"\xff",
    "overlong-varint": NAME + key(1000, 0) + OVERLONG_VARINT,
    "overlong-key": NAME + OVERLONG_VARINT,
    "overlong-length": NAME + key(7, 2) + OVERLONG_VARINT,
    "length-beyond-64-bits": NAME + key(7, 2) + b"\xff" * 9 + b"\x7f",
    "length-beyond-the-end": NAME + key(7, 2) + varint(1 << 63),
    "field-number-zero": NAME + key(0, 2) + b"\x00",
    "field-number-too-great": NAME + key(1 << 29, 0) + b"\x00",
    "wire-type-of-name": key(1, 0) + b"\x01",
    "wire-type-of-version": NAME + key(2, 5) + bytes(4),
    "wire-type-of-id": NAME + key(3, 1) + bytes(8),
    "wire-type-of-parameters": NAME + key(4, 0) + b"\x01",
    "wire-type-6": NAME + key(9, 6),
    "wire-type-7": NAME + key(9, 7),
    "end-group-alone": NAME + key(9, 4),
    "name-not-utf-8": length_delimited(1, b"\xff\xfe"),
    "name-of-surrogates": length_delimited(1, b"\xed\xa0\x80"),
    "name-overlong-utf-8": length_delimited(1, b"\xc0\xaf"),
    "version-not-utf-8": NAME + length_delimited(2, b"\x80"),
    "id-not-utf-8": NAME + length_delimited(3, b"\xc3"),
    "parameter-name-not-utf-8": NAME + length_delimited(4, length_delimited(1, b"\xff")),
    "parameter-value-not-utf-8": NAME
    + length_delimited(4, length_delimited(1, "a") + length_delimited(2, length_delimited(3, b"\xff"))),
    "parameter-truncated": NAME + length_delimited(4, length_delimited(1, "abc")[:-1]),
    "parameter-value-truncated": NAME + length_delimited(4, length_delimited(2, key(2, 0))),
    "parameter-text": NAME + length_delimited(4, b"hello"),
}


@pytest.mark.parametrize("payload", NOT_A_REQUEST.values(), ids=NOT_A_REQUEST.keys())
async def test_bytes_that_are_no_request_are_invalid(instance: Instance, client: Client, payload: bytes) -> None:
    await instance.worker("echo", answer=lambda _: b"")
    error = await client.refused(payload)
    assert error.code is Code.INVALID_ARGUMENT
    assert "ModelInferRequest" in error.message
    await assert_untouched(instance)


async def test_a_message_above_the_limit_is_resource_exhausted(start_instance: StartInstance) -> None:
    instance = await start_instance(max_message_bytes=10_000)
    await instance.worker("echo")
    error = await instance.client.refused(request("echo", raw=bytes(10_000)))
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert "10000" in error.message
    assert (await failure(first_answer(instance.client, request("echo", raw=bytes(10_000))))) == error
    await assert_untouched(instance)


async def first_answer(client: Client, message: Message) -> object:
    """One request on a stream, and what comes back first."""
    stream = client.stream()
    await stream.send(message)
    return await stream.call.read()


async def test_unary_call_of_a_streaming_capability_is_unimplemented(instance: Instance, client: Client) -> None:
    await instance.worker("chat", stream=True, capability={"type": "chat"})
    for query in ({}, {"type": "chat"}):
        error = await client.refused(request("chat"), query=query)
        assert error.code is Code.UNIMPLEMENTED
        assert "chat" in error.message
        assert "ModelStreamInfer" in error.message
    await assert_untouched(instance)


async def test_unary_call_goes_to_a_unary_registration_beside_a_streaming_one(
    instance: Instance, client: Client
) -> None:
    streaming = await instance.worker("chat", stream=True, priority=5, answer=lambda _: stream_reply())
    await instance.worker("chat", answer=lambda _: reply("unary"))
    assert (await client.infer(request("chat"))).model_name == "unary"
    assert streaming.connections == []


@pytest.mark.parametrize("size", [9_000, 1_000_000])
async def test_a_long_model_name_is_still_answered_with_its_own_status(
    instance: Instance, client: Client, size: int
) -> None:
    error = await client.refused(request("m" * size))
    assert error.code is Code.NOT_FOUND
    assert "mmm" in error.message


async def test_a_long_reserved_parameter_is_still_answered_with_its_own_status(client: Client) -> None:
    error = await client.refused(NAME + parameter_entry("anyserve_" + "x" * 20_000, INT_5))
    assert error.code is Code.INVALID_ARGUMENT
