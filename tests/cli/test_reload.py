"""`--reload`: edited code answers soon, no request fails meanwhile, and what does not load replaces nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from anyserve import Code, InferenceError
from support.command import Instance, serving, write_app
from support.processes import eventually

HEAD = """
    from pathlib import Path

    from anyserve import AnyServe, Worker

    app = AnyServe()
"""
FUNCTION = """
    @app.capability(type="{name}")
    def {name}(request):
        return {{"n": [{value}]}}
"""
CLASS = """
    @app.worker(capabilities=[{{"type": "{name}"}}])
    class {name}(Worker):
        def on_cleanup(self):
            with open("cleaned", "a") as file:
                file.write("{name} {value} ")

        def handle(self, request):
            return {{"n": [{value}]}}
"""


def app(*parts: str) -> str:
    return HEAD + "".join(parts)


def function(name: str, value: int) -> str:
    return FUNCTION.format(name=name, value=value)


def class_(name: str, value: int) -> str:
    return CLASS.format(name=name, value=value)


@contextmanager
def reloading(source: str, tmp_path: Path, *options: str) -> Iterator[Instance]:
    """Serves with `--reload`; what is changed from here on is seen."""
    with serving(source, "--reload", *options, directory=tmp_path) as instance:
        instance.wait_log("watching for changes")
        yield instance


def value(instance: Instance, model: str) -> int:
    return int(instance.client.infer(model, {}).tensors()["n"][0])


@pytest.mark.slow
def test_new_code_answers_and_no_request_fails(tmp_path: Path) -> None:
    with reloading(app(function("it", 1), class_("Other", 1)), tmp_path, "--workers=2") as instance:
        answers: list[int] = []
        failures: list[Exception] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                for model in ("it", "Other"):
                    try:
                        answers.append(value(instance, model))
                    except Exception as error:
                        failures.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            write_app(tmp_path, app(function("it", 2), class_("Other", 2)))
            instance.wait_log("reloaded")
        finally:
            done.set()
            asking.join()
        assert failures == []
        assert set(answers) <= {1, 2}
        assert answers[0] == 1
        assert {value(instance, model) for model in ("it", "Other") for _ in range(4)} == {2}
        assert (tmp_path / "cleaned").read_text() == "Other 1 Other 1 "  # both old ones took their leave
        assert len(instance.client.workers()) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        "def broken(:\n",
        "raise RuntimeError('not now')\n",
        "import sys\nsys.exit(0)\n",
        "from anyserve import AnyServe\napp = AnyServe()\n",
    ],
    ids=["syntax", "raises", "exits", "empty"],
)
def test_code_that_does_not_load_leaves_the_old_running(tmp_path: Path, broken: str) -> None:
    with reloading(app(function("it", 1)), tmp_path) as instance:
        (tmp_path / "my_app.py").write_text(broken)
        told = instance.wait_log("the app does not load, the old workers stay")
        assert "my_app" in told["reason"]
        assert value(instance, "it") == 1
        write_app(tmp_path, app(function("it", 3)))
        instance.wait_log("reloaded")
        assert value(instance, "it") == 3


@pytest.mark.slow
def test_on_start_that_fails_leaves_the_old_running(tmp_path: Path) -> None:
    with reloading(app(class_("It", 1)), tmp_path) as instance:
        fails = class_("It", 2).replace("def on_cleanup", "def on_start(self): 1 / 0\n\n        def on_cleanup")
        write_app(tmp_path, app(fails))
        told = instance.wait_log("the new worker failed; the old one stays")
        assert "ZeroDivisionError" in told["reason"]
        assert value(instance, "It") == 1
        write_app(tmp_path, app(class_("It", 3)))
        instance.wait_log("reloaded")
        assert value(instance, "It") == 3


@pytest.mark.slow
def test_capabilities_come_and_go(tmp_path: Path) -> None:
    with reloading(app(function("stays", 1), function("goes", 1)), tmp_path) as instance:
        assert value(instance, "goes") == 1
        write_app(tmp_path, app(function("stays", 2), function("comes", 2)))
        instance.wait_log("reloaded")
        assert value(instance, "stays") == value(instance, "comes") == 2
        with pytest.raises(InferenceError) as caught:
            value(instance, "goes")
        assert caught.value.code is Code.NOT_FOUND


@pytest.mark.slow
def test_groups_come_and_go(tmp_path: Path) -> None:
    """Worker classes, and the first function of an app, are processes of their own: they follow the code too."""
    with reloading(app(class_("Goes", 1), class_("Stays", 1)), tmp_path) as instance:
        assert value(instance, "Goes") == value(instance, "Stays") == 1
        write_app(tmp_path, app(function("first", 2), class_("Stays", 2), class_("Comes", 2)))
        instance.wait_log("reloaded")
        for model in ("first", "Stays", "Comes"):
            eventually(partial(instance.client.model_ready, model), f"{model} is served")
            assert value(instance, model) == 2
        with pytest.raises(InferenceError) as caught:
            value(instance, "Goes")
        assert caught.value.code is Code.NOT_FOUND
        assert len(instance.client.workers()) == 3


@pytest.mark.slow
def test_change_of_an_imported_module(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("VALUE = 1\n")
    source = app("\n    import settings\n", function("it", 0).replace("[0]", "[settings.VALUE]"))
    with reloading(source, tmp_path) as instance:
        assert value(instance, "it") == 1
        (tmp_path / "settings.py").write_text("VALUE = 2\n")
        instance.wait_log("reloaded")
        assert value(instance, "it") == 2


@pytest.mark.slow
def test_other_files_change_nothing(tmp_path: Path) -> None:
    with reloading(app(function("it", 1)), tmp_path) as instance:
        (tmp_path / "notes.txt").write_text("changed")
        write_app(tmp_path, app(function("it", 2)))
        (changed,) = [instance.wait_log("reloading")["changed"]]
        assert [Path(path).name for path in changed] == ["my_app.py"]
        instance.wait_log("reloaded")


@pytest.mark.slow
def test_stop_while_it_reloads(tmp_path: Path) -> None:
    with reloading(app(function("it", 1)), tmp_path) as instance:
        write_app(tmp_path, "import time\n" + "time.sleep(60)\n")
        instance.wait_log("worker started", count=2)
        assert instance.stop() == 0
        assert instance.leftovers(2.0) == []
