"""Header blocks: HPACK in all its forms, metadata, sizes, and fields that RFC 9113 calls malformed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from anyserve_conformance.raw_grpc import LIVE, Header, integer, literal, literals, prefixed, request_headers
from anyserve_conformance.raw_http2 import Connect, Http2Connection
from anyserve_conformance.requirement import requirement

LOOK_AT = "the decoding of header blocks, whose table belongs to the connection and changes with each block"

TABLE = 4096  # bytes of the table until a server says otherwise


def _call_with_block(connection: Http2Connection, block: bytes, what: str) -> None:
    stream = connection.headers([], block=block)
    connection.data(stream, prefixed(b""), end_stream=True)
    connection.answer(stream).expect_ok(what)


# HPACK


@requirement("serving.grpc.hpack")
@pytest.mark.parametrize("huffman", [True, False], ids=["huffman", "plain"])
def test_table_is_kept(raw_http2: Connect, huffman: bool) -> None:
    """Fields that an earlier call put into the table are known in later ones, with Huffman code and without."""
    connection = raw_http2()
    extra = [("x-conformance", "table-" + "0123456789" * 3), ("x-other", "~|{}\\^")]
    sizes = []
    for number in range(3):
        block = connection.encoder.encode(request_headers(extra=extra), huffman=huffman)
        sizes.append(len(block))
        _call_with_block(connection, block, f"call {number + 1} on the connection")
    assert sizes[1] < sizes[0], "the suite's encoder did not use its table"


@requirement("serving.grpc.hpack")
@pytest.mark.parametrize("form", [0x00, 0x10], ids=["not-indexed", "never-indexed"])
def test_forms_that_touch_no_table(raw_http2: Connect, form: int) -> None:
    """Fields without an index, and those that must never get one, are taken and leave the table as it is."""
    connection = raw_http2()
    _call_with_block(connection, _filling(), "the call that fills the table")
    _call_with_block(
        connection, b"".join(literal(*pair, form=form) for pair in request_headers()), "a call with literals"
    )
    _call_with_block(connection, _indexed(), "a call with indices into the table")


def _filling() -> bytes:
    """The headers of a call, each put into the table."""
    return b"".join(literal(name, value, form=0x40) for name, value in request_headers())


def _indexed() -> bytes:
    """The same headers as indices into the table, whose newest fields they are; 61 fields are static."""
    count = len(request_headers())
    return b"".join(integer(61 + count - number, 7, 0x80) for number in range(count))


@requirement("serving.grpc.hpack", look_at="the headers of a refused call, which the table takes all the same")
def test_refused_calls_change_the_table(raw_http2: Connect) -> None:
    """What the headers of a refused call put into the table is known in the next call."""
    connection = raw_http2()
    path = literal(":path", "/no.such.Service/Method")
    others = [literal(name, value, form=0x40) for name, value in request_headers() if name != ":path"]
    stream = connection.headers([], block=b"".join([others[0], path, *others[1:]]))
    connection.data(stream, prefixed(b""), end_stream=True)
    connection.answer(stream).expect_failed("a call to an unknown path")
    known = [integer(61 + len(others) - number, 7, 0x80) for number in range(len(others))]
    block = b"".join([known[0], literal(":path", LIVE), *known[1:]])
    _call_with_block(connection, block, "the call after it, with indices into the table")


@requirement("serving.grpc.hpack")
def test_table_is_emptied_and_filled(raw_http2: Connect) -> None:
    """The table may be made smaller, down to nothing, and larger again at the beginning of a block."""
    connection = raw_http2()
    _call_with_block(connection, _filling(), "the call that fills the table")
    resized = integer(0, 5, 0x20) + integer(TABLE, 5, 0x20)
    _call_with_block(connection, resized + _filling(), "a call that empties the table first")
    _call_with_block(connection, _indexed(), "a call with indices into the table")
    _call_with_block(connection, integer(0, 5, 0x20) + literals(request_headers()), "a call that gives the table up")
    _call_with_block(connection, literals(request_headers()), "a call without a table")


@requirement("serving.grpc.hpack")
def test_old_fields_leave_the_table(raw_http2: Connect) -> None:
    """A field that the table has no room for any more pushes out the oldest ones."""
    connection = raw_http2()
    _call_with_block(connection, _filling(), "the call that fills the table")
    big = literal("x-big", "b" * 3_000, form=0x40) + literal("x-bigger", "b" * 2_500, form=0x40)
    _call_with_block(connection, literals(request_headers()) + big, "a call with fields that push out the others")
    _call_with_block(connection, _filling(), "a call that fills the table again")
    _call_with_block(connection, _indexed(), "a call with indices into the table")


@requirement("serving.grpc.hpack", look_at="integers of more than one byte, which may have leading zeros")
def test_long_integers(raw_http2: Connect) -> None:
    """Lengths that fill several bytes are taken."""
    connection = raw_http2()
    for size in (126, 127, 128, 254, 255, 256, 1_500):
        block = literals(request_headers(extra=[("x-size", "s" * size)]))
        _call_with_block(connection, block, f"a call with a field of {size} bytes")


@requirement("serving.grpc.hpack-error", look_at="that an error in a block ends the connection: its table is lost")
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(literals(request_headers()) + b"\x80", id="index-0"),
        pytest.param(literals(request_headers()) + integer(4_000, 7, 0x80), id="index-beyond-the-table"),
        pytest.param(integer(TABLE * 64, 5, 0x20) + literals(request_headers()), id="table-too-large"),
        pytest.param(literals(request_headers()) + literal("x-cut", "value")[:-2], id="cut-field"),
        pytest.param(literals(request_headers()) + b"\x00\x01x\xff" + b"\xff" * 9 + b"\x7f", id="endless-length"),
    ],
)
def test_undecodable_block(raw_http2: Connect, block: bytes) -> None:
    """A header block that cannot be decoded ends the connection, with its call."""
    connection = raw_http2()
    stream = connection.headers([], block=block)
    connection.data(stream, prefixed(b""), end_stream=True)
    assert not connection.goes_on(), "the connection went on after a header block that cannot be decoded"
    assert not connection.streams[stream].ok, "a call with a header block that cannot be decoded was served"


# Metadata


@requirement("serving.grpc.metadata")
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([("x-data-bin", "AAECAw==")], id="padded"),
        pytest.param([("x-data-bin", "AAECAw")], id="not-padded"),
        pytest.param([("x-data-bin", "AAE"), ("x-data-bin", "AgM")], id="binary-twice"),
        pytest.param([("x-note", "one"), ("x-other", "1"), ("x-note", "two"), ("x-note", "one")], id="repeated"),
        pytest.param([("x-note", "a, b;c=\"d\" ~!@#$%^&*()[]{}|\\")], id="punctuation"),
        pytest.param([("0.x_-9", "name")], id="odd-name"),
        pytest.param([(f"x-note-{number}", "value") for number in range(60)], id="sixty"),
        pytest.param([("cookie", "a=b"), ("cookie", "c=d"), ("authorization", "Basic eDp5"), ("date", "x")], id="http"),
        pytest.param([("grpc-not-yet", "1"), ("user-agent", "conformance/1")], id="reserved"),
    ],
)  # fmt: skip
def test_is_no_harm(raw_http2: Connect, extra: Sequence[Header]) -> None:
    """A call with such metadata is served."""
    connection = raw_http2()
    connection.call(extra=extra).expect_ok("a call with metadata")
    connection.call(extra=extra).expect_ok("the same call again")


@requirement("serving.grpc.metadata", look_at="the order of fields, which says nothing")
def test_metadata_before_the_call_definition(raw_http2: Connect) -> None:
    """Metadata may stand before `grpc-timeout`, `te` and `content-type`."""
    pairs = request_headers(timeout="100S")
    connection = raw_http2()
    stream = connection.headers([*pairs[:4], ("x-note", "first"), *reversed(pairs[4:])])
    connection.upload(stream, prefixed(b""))
    connection.answer(stream).expect_ok("a call with metadata in front")


@requirement("serving.grpc.joined-metadata", look_at="that binary values are split at commas before they are decoded")
def test_joined_binary_values(raw_http2: Connect) -> None:
    """A call with binary values that a proxy has joined with commas is served."""
    raw_http2().call(extra=[("x-data-bin", "AAE=,AgM,/+8")]).expect_ok("a call with joined binary values")


@requirement("serving.grpc.field-values")
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("größe".encode(), id="utf-8"),
        pytest.param(b"gr\xf6\xdfe", id="latin-1"),
        pytest.param(b"a\tb", id="tab"),
        pytest.param(b"", id="empty"),
    ],
)
def test_odd_value_is_no_harm(raw_http2: Connect, value: bytes) -> None:
    """A call is served whose metadata has a value that HTTP allows and gRPC does not."""
    raw_http2().call(extra=[(b"x-note", value)]).expect_ok(f"a call with the value {value!r}")


# Sizes


@requirement("serving.grpc.metadata-size", look_at="the limit of the header list; gRPC suggests 8 KiB")
def test_nearly_eight_kib(raw_http2: Connect) -> None:
    """A call whose header list has nearly 8 KiB is served, in one field and in many."""
    connection = raw_http2()
    for extra in ([("x-note", "v" * 7_500)], [(f"x-note-{number}", "v" * 200) for number in range(30)]):
        connection.call(extra=extra).expect_ok("a call with 7,500 bytes of metadata")


@requirement("serving.grpc.large-headers", look_at="the limit of the header list, which must not cost other calls")
@pytest.mark.parametrize("size", [20_000, 60_000])
def test_too_large_headers_end_their_call_alone(raw_http2: Connect, size: int) -> None:
    """A call with metadata that may be too large is served or ends with an error, and the connection goes on."""
    connection = raw_http2()
    pairs = request_headers(extra=[(f"x-note-{number}", "v" * 1_000) for number in range(size // 1_000)])
    block = literals(pairs)
    stream = connection.headers(pairs, block=block, cuts=range(16_000, len(block), 16_000))
    connection.data(stream, prefixed(b""), end_stream=True)
    answer = connection.answer(stream)
    assert answer.finished, "the call did not end"
    assert not answer.lost, f"the call ended its connection: {answer}"
    connection.call().expect_ok("the call after it")


# Malformed fields


def _replaced(name: str, *pairs: Header) -> list[Header]:
    """The headers of a call with these in place of one."""
    found: list[Header] = []
    for pair in request_headers():
        found += pairs if pair[0] == name else [pair]
    return found


PATH = (":path", LIVE)
MALFORMED: dict[str, dict[str, list[Header]]] = {
    "upper-case": {"upper-case letters in a name": [*request_headers(), ("X-Note", "1")]},
    "names": {
        "a space in a name": [*request_headers(), ("x note", "1")],
        "an empty name": [*request_headers(), ("", "1")],
    },
    "pseudo-header-fields": {
        "no :path": _replaced(":path"),
        "no :method": _replaced(":method"),
        "two :path": _replaced(":path", PATH, (":path", "/a/b")),
        "an unknown pseudo-header field": _replaced(":path", PATH, (":note", "1")),
    },
    "pseudo-header-order": {
        ":path after other fields": [*_replaced(":path"), PATH],
        "two :method": _replaced(":method", (":method", "POST"), (":method", "POST")),
        ":status": _replaced(":path", PATH, (":status", "200")),
    },
    "connection": {
        "connection": [*request_headers(), ("connection", "keep-alive")],
        "transfer-encoding": [*request_headers(), ("transfer-encoding", "chunked")],
        "te: gzip": _replaced("te", ("te", "gzip")),
    },
}


@requirement("serving.grpc.malformed-fields", look_at="the checks of RFC 9113, 8.2 and 8.3, on each field of a request")
@pytest.mark.parametrize("group", MALFORMED)
def test_malformed_fields_are_not_served(raw_http2: Connect, group: str) -> None:
    """Calls with malformed header fields are not served."""
    malformed = MALFORMED[group]
    connections = [raw_http2() for _ in malformed]  # together: some servers delay refusals
    streams = []
    for connection, pairs in zip(connections, malformed.values(), strict=True):
        streams.append(connection.headers(pairs, block=literals(pairs)))
        connection.upload(streams[-1], prefixed(b""))
    answers = [connection.answer(stream) for connection, stream in zip(connections, streams, strict=True)]
    served = [name for name, answer in zip(malformed, answers, strict=True) if answer.ok]
    waiting = [name for name, answer in zip(malformed, answers, strict=True) if not answer.finished]
    assert not waiting, f"calls did not end: {', '.join(waiting)}"
    assert not served, f"calls with malformed fields were served: {', '.join(served)}"
