"""What Python does wrong with the native pure parts raises: nothing aborts, and nothing refers to what is gone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from support.desk import Desk
from support.policies import Policy


@pytest.fixture
def native(both: tuple[Policy, Policy]) -> Policy:
    return both[1]


@pytest.fixture
def desk(native: Policy) -> Desk:
    """One request runs, another waits."""
    desk = Desk(native)
    desk.add("w")
    assert [desk.ask("runs"), desk.ask("waits")] == ["w", None]
    return desk


MISUSES: list[Callable[[Policy], Any]] = [
    lambda native: native.Capability({"a": "\udcff"}),  # a byte that is no UTF-8
    lambda native: native.Capability({"a": "\ud800"}),  # no byte at all
    lambda native: native.Capability({"a": 1}),
    lambda native: native.Pattern.parse("?").match("\udcff"),
    lambda native: native.Pattern.parse("\udcff"),
    lambda native: native.Query.parse((("\udcff", "x"),)),
    lambda native: native.Query.parse((("a", "\udcff"),)),
    lambda native: native.Registry(max_workers=1, max_registrations=1).register(None),
    lambda native: native.Registry(max_workers=-1, max_registrations=1),
    lambda native: native.Registration.__new__(native.Registration).key,
    lambda native: native.FrameDecoder(4).feed("text"),
    lambda native: native.submessage_field(0, b""),
    lambda native: native.submessage_field(1 << 29, b""),
    lambda native: native.parameter_bytes("n", 1 << 63),
    lambda native: native.extend_response(b"", native.scan_stream_reply(b"\x12\0"), b""),  # of another message
    lambda native: native.Ticket(None, native.Target("m"), print),
    lambda native: native.Admission(1, 1).submit(None),
    lambda native: native.Slot(),
]


@pytest.mark.parametrize("misuse", MISUSES, ids=range(len(MISUSES)))
@pytest.mark.filterwarnings("ignore:nanobind")
def test_raises(native: Policy, misuse: Callable[[Policy], Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        misuse(native)


def test_a_decoder_goes_on_refusing(native: Policy) -> None:
    decoder = native.FrameDecoder(4)
    for data in (b"\0\0\0\5", b"", b"\0\0\0\0"):
        with pytest.raises(native.FrameTooLong, match="5 bytes"):
            decoder.feed(data, by_room=True)


def test_a_slot_is_given_back_once_and_where_it_came_from(desk: Desk, native: Policy) -> None:
    slot = desk.grants["runs"]
    with pytest.raises(ValueError, match="not of this admission"):
        native.Admission(1, 1).release(slot)
    desk.release("runs")
    with pytest.raises(ValueError, match="already"):
        desk.admission.release(slot)
    assert desk.worker_of("waits") == "w"


def test_a_slot_outlives_its_admission(desk: Desk, native: Policy) -> None:
    slot = desk.grants["runs"]
    desk.admission = native.Admission(1, 1)
    gc.collect()
    assert slot.registration.worker_id == "w"
    with pytest.raises(ValueError, match="not of this admission"):
        desk.admission.release(slot)


def test_a_ticket_waits_once(desk: Desk, native: Policy) -> None:
    with pytest.raises(ValueError, match="waits already"):
        desk.admission.submit(desk.tickets["waits"])
    other = native.Admission(1, 1)
    with pytest.raises(ValueError, match="elsewhere"):
        other.withdraw(desk.tickets["waits"])
    desk.withdraw("waits")
    desk.withdraw("waits")  # it does not wait: nothing happens
    assert other.submit(desk.tickets["waits"]).registration.worker_id == "w"


def test_a_waiting_ticket_lives_on(desk: Desk) -> None:
    del desk.tickets["waits"]
    gc.collect()
    desk.release("runs")
    assert desk.told == [("waits", "w")]


def test_what_a_callback_raises_comes_out_when_all_have_been_told(desk: Desk, native: Policy) -> None:
    def fail(_: Any) -> None:
        raise LookupError("of the callback")

    target = native.Target("m")
    for told in (fail, fail, desk.told.append):
        assert desk.admission.submit(native.ticket(desk.registry, target, told)) is None
    with pytest.raises(LookupError, match="of the callback"):
        desk.remove("w")
    assert desk.told == [("waits", None), None]  # type: ignore[comparison-overlap]
    assert desk.admission.waiting == 0


def test_a_callback_may_use_the_admission(native: Policy) -> None:
    """Each gives its slot back from within, so one release serves all."""
    desk = Desk(native)
    desk.add("w")
    first = desk.admission.submit(native.ticket(desk.registry, native.Target("m"), print))
    served: list[int] = []

    def told(number: int) -> Callable[[Any], None]:
        def tell(slot: Any) -> None:
            served.append(number)
            desk.admission.release(slot)

        return tell

    for number in range(5):
        assert desk.admission.submit(native.ticket(desk.registry, native.Target("m"), told(number))) is None
    desk.admission.release(first)
    assert served == [0, 1, 2, 3, 4]
    assert desk.admission.in_flight("w") == 0


def test_circles_of_tickets_and_callbacks_are_collected(native: Policy) -> None:
    desk = Desk(native)
    desk.add("w")
    assert [desk.ask("runs"), desk.ask("waits")] == ["w", None]  # the callbacks refer to the desk, and that to them
    gone = weakref.ref(desk)
    del desk
    gc.collect()
    assert gone() is None
