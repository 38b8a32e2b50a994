"""examples/basic: what a new user runs first."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from anyserve import Code, InferenceError, ModelInferRequest

Run = Callable[..., CompletedProcess[str]]
Shown = Callable[[str, str, str], bool]


def test_run_example_prints_requests_and_answers(run_example: Run, shown_in_readme: Shown) -> None:
    output = run_example("basic").stdout
    assert shown_in_readme("basic", "python examples/basic/run_example.py", output)
    assert output.splitlines() == [
        "request  echo    text = [b'hello' b'world']",
        "answer   echo    text = [b'hello' b'world']",
        "request  add:1   a = [1. 2. 3.]  b = [10. 20. 30.]",
        "answer   add:1   sum = [11. 22. 33.]",
    ]


def test_it_runs_from_any_directory(run_example: Run, tmp_path: Path) -> None:
    assert "sum = [11. 22. 33.]" in run_example("basic", cwd=tmp_path).stdout


def test_it_asks_a_running_server(run_example: Run) -> None:
    from examples._running import Server, client_of

    with Server("examples.basic.app:app") as server:
        result = run_example("basic", "--address", server.address)
        assert "sum = [11. 22. 33.]" in result.stdout
        with client_of("examples.basic.app:app", server.address) as client:
            assert client.server_live()  # it was only asked: it goes on


def test_no_server_at_the_address_is_one_line(run_example: Run) -> None:
    with socket.socket() as held:  # bound, not listening: nobody else can take the port
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        result = run_example("basic", "--address", address, status=1)
    assert result.stderr.strip() == f"no anyserve server is ready at {address}"


def test_a_server_that_cannot_start_shows_its_output() -> None:
    from examples._running import client_of

    with (
        pytest.raises(SystemExit, match=r"(?s)ended with status [1-9].*no_such_example"),
        client_of("examples.no_such_example:app", None),
    ):
        pytest.fail("there is nothing to serve")


def test_echo_returns_typed_and_raw_contents_as_they_came() -> None:
    from examples.basic.app import echo

    for raw in (True, False):
        request = ModelInferRequest(id="7")
        request.set_tensors({"x": np.arange(6, dtype=np.int32).reshape(2, 3)}, raw=raw)
        response = echo(request)
        assert list(response.raw_output_contents) == list(request.raw_input_contents)
        assert response.outputs[0].SerializeToString() == request.inputs[0].SerializeToString()
        np.testing.assert_array_equal(response.tensors()["x"], request.tensors()["x"])


def test_add_names_what_it_takes() -> None:
    from examples.basic.app import add

    request = ModelInferRequest()
    request.set_tensors({"a": np.ones(2, dtype=np.float32)})
    with pytest.raises(InferenceError, match=r"tensors a and b, not \['a'\]") as raised:
        add(request)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_a_missing_package_is_one_line() -> None:
    from examples._running import require

    with pytest.raises(SystemExit, match=r"^this example needs no_such_package: pip install 'anyserve\[examples\]'$"):
        require("json", "no_such_package")
