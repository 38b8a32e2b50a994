"""What the server says of itself."""

from __future__ import annotations

import grpc

from anyserve_conformance.client import Client
from anyserve_conformance.requirement import requirement
from anyserve_conformance.wire import field

LOOK_AT = "the handlers of ServerLive and ServerMetadata, which need no model"


@requirement("serving.live.true")
def test_says_that_it_is_live(client: Client) -> None:
    """ServerLive is answered with `live = true`."""
    assert client.call("ServerLive").message.live, "ServerLive was answered with live = false"


@requirement("serving.live.true", look_at="how requests are decoded: protobuf skips fields that it does not know")
def test_is_live_for_a_client_with_more_fields(client: Client) -> None:
    """A field that the protocol does not have in ServerLiveRequest changes nothing."""
    assert client.call("ServerLive", field(1000, "of a later version")).message.live


@requirement("serving.live.true", look_at="what an error in one call leaves behind on its connection")
def test_is_live_after_an_error(client: Client) -> None:
    """The call after one that failed, on the same connection, is answered."""
    answer = client.call("ModelMetadata", b"\xff\xff\xff")
    assert answer.code is not grpc.StatusCode.OK, "bytes that are no message were answered with OK"
    assert client.live(), "ServerLive was answered with live = false after another call had failed"


@requirement("serving.ready.answer")
def test_says_whether_it_is_ready(client: Client) -> None:
    """ServerReady is answered with OK, whatever it says."""
    client.call("ServerReady").expect_ok()


@requirement("serving.metadata.server")
def test_has_a_name(client: Client) -> None:
    """ServerMetadata has a name."""
    assert client.call("ServerMetadata").message.name, "the server's name is empty"
