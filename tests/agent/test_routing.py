"""Which registration a request means: by name and version, by capability query (wire.md section 2)."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from anyserve.errors import Code
from support.client import Client
from support.instances import Instance
from support.wire import reply, request
from support.worker import ScriptedWorker


async def named_worker(instance: Instance, name: str = "", version: str = "", **fields: Any) -> ScriptedWorker:
    """A worker whose replies carry its own id."""
    worker_id = str(fields.pop("worker_id", "")) or f"w{len(instance.workers)}"
    return await instance.worker(
        name, version, worker_id=worker_id, answer=lambda _: reply(request_id=worker_id), **fields
    )


async def answering(client: Client, count: int, message: Message, **options: Any) -> set[str]:
    """Which workers answer `count` requests, one after the other."""
    return {(await client.infer(message, **options)).id for _ in range(count)}


@pytest.mark.parametrize(
    ("registered", "chosen"),
    [
        (["", "1", "2"], {""}),
        (["", "10", "beta"], {""}),
        (["1", "2", "3"], {"3"}),
        (["9", "10"], {"10"}),
        (["10", "9"], {"10"}),
        (["1.9", "1.10"], {"1.9"}),
        (["2", "1.5"], {"2"}),
        (["-2", "-1"], {"-1"}),
        (["2", "2.0", "1"], {"2", "2.0"}),
        (["1", "beta"], {"1", "beta"}),
        (["alpha", "beta"], {"alpha", "beta"}),
        (["1.2.3", "1.2.4"], {"1.2.3", "1.2.4"}),
        (["v1", "v2"], {"v1", "v2"}),
        (["1e3", "2"], {"1e3", "2"}),
    ],
    ids=lambda value: "-".join(sorted(value)) or "none",
)
async def test_without_a_version_one_is_chosen(
    instance: Instance, client: Client, registered: list[str], chosen: set[str]
) -> None:
    for version in registered:
        await named_worker(instance, "m", version, worker_id=f"v{version}")
    assert await answering(client, 2 * len(registered), request("m")) == {f"v{version}" for version in chosen}


@pytest.mark.parametrize("registered", [["1", "2"], ["", "2"]])
async def test_a_version_that_is_asked_for_is_matched_as_text(
    instance: Instance, client: Client, registered: list[str]
) -> None:
    for version in registered:
        await named_worker(instance, "m", version, worker_id=f"v{version}")
    assert await answering(client, 4, request("m", version="2")) == {"v2"}
    assert (await client.refused(request("m", version="2.0"))).code is Code.NOT_FOUND


async def test_a_name_that_nobody_registered_is_looked_for_in_capabilities(instance: Instance, client: Client) -> None:
    await named_worker(instance, "chat", worker_id="chat", capability={"type": "chat", "model": "llama"})
    assert await answering(client, 1, request("llama")) == {"chat"}


async def test_a_registered_name_comes_before_a_capability(instance: Instance, client: Client) -> None:
    await named_worker(instance, "chat", worker_id="by-capability", priority=9, capability={"model": "llama"})
    await named_worker(instance, "llama", worker_id="by-name")
    assert await answering(client, 4, request("llama")) == {"by-name"}


async def test_a_name_without_the_version_asked_for_is_looked_for_in_capabilities(
    instance: Instance, client: Client
) -> None:
    await named_worker(instance, "llama", "1", worker_id="by-name")
    await named_worker(instance, "chat", worker_id="by-capability", capability={"model": "llama", "version": "2"})
    assert await answering(client, 2, request("llama", version="2")) == {"by-capability"}


async def test_the_version_rule_holds_for_capabilities_too(instance: Instance, client: Client) -> None:
    for version in ("9", "10"):
        capability = {"model": "llama", "version": version}
        await named_worker(instance, "chat", worker_id=f"v{version}", capability=capability)
    assert await answering(client, 4, request("llama")) == {"v10"}
    assert await answering(client, 2, request("llama", version="9")) == {"v9"}


async def test_an_empty_capability_means_type_and_model(instance: Instance, client: Client) -> None:
    await named_worker(instance, "chat", "llama", worker_id="both")
    await named_worker(instance, "echo", worker_id="type-alone")
    assert await answering(client, 2, request(), query={"type": "chat", "model": "llama"}) == {"both"}
    assert await answering(client, 2, request("llama")) == {"both"}
    assert await answering(client, 2, request(), query={"type": "echo"}) == {"type-alone"}
    assert (await client.refused(request(), query={"type": "echo", "model": "*"})).code is Code.NOT_FOUND


async def test_a_query_is_asked_instead_of_the_name(instance: Instance, client: Client) -> None:
    await named_worker(instance, "chat", worker_id="named", capability={"type": "chat"})
    await named_worker(instance, "echo", worker_id="asked", capability={"type": "echo"})
    assert await answering(client, 4, request("chat"), query={"type": "echo"}) == {"asked"}
    assert (await client.refused(request("chat"), query={"type": "x"})).code is Code.NOT_FOUND


async def test_every_key_of_a_query_must_match(instance: Instance, client: Client) -> None:
    await named_worker(instance, "m", capability={"type": "chat", "model": "llama"})
    for query in ({"type": "chat", "model": "qwen"}, {"type": "chat", "size": "*"}):
        assert (await client.refused(request(), query=query)).code is Code.NOT_FOUND


PATTERNS = {
    "llama": (["llama"], ["llam", "llama2", "Llama", "xllama"]),
    "a|b": (["a", "b"], ["c", "a|b", "ab"]),
    "a|b*|c?": (["a", "b", "bbb", "c1"], ["aa", "c", "c12"]),
    "llama-*": (["llama-", "llama-70b", "llama-*"], ["llama", "xllama-1"]),
    "*-70b": (["llama-70b", "-70b"], ["llama-70bx"]),
    "l*a": (["la", "llama", "l/\\.a"], ["llamas"]),
    "*": (["x", "any thing", "ü", "a\u2028b"], []),
    "l?ama": (["llama", "lüama"], ["lama", "lllama"]),
    "???": (["abc"], ["ab", "abcd"]),
    "[ab]": (["[ab]"], ["a"]),
    "[ab]*": (["[ab]x", "[ab]"], ["ab", "a"]),
    "a.c": (["a.c"], ["abc"]),
    "(a+)+$": (["(a+)+$"], ["aaa"]),
    ">=10": (["10", "11", "10.0", "100"], ["9", "9.99", "x", "10x", "-11", "1e3", " 10", "+11"]),
    "<=10": (["10", "9", "-100", "9.5", "010"], ["10.1", "11", "x"]),
    ">1.5": (["1.51", "2", "10"], ["1.5", "1.50", "1", "-2"]),
    "<-1": (["-2", "-1.1"], ["-1", "0", "1"]),
    ">9007199254740992": (["9007199254740993"], ["9007199254740992"]),
    "<0.3": (["0.29999999999999999999"], ["0.3", "0.30000000000000000001"]),
    "!=llama": (["llam", "x", "Llama"], ["llama"]),
    "!=a*": (["a", "ab"], ["a*"]),
    "!=a|b": (["a", "b"], ["a|b"]),
    "größe 100% ☃": (["größe 100% ☃"], ["größe 100%"]),
    "=x": (["=x"], ["x"]),
    "a=b,c": (["a=b,c"], ["a"]),
}


@pytest.mark.parametrize(
    ("pattern", "values", "others"), [(p, *rows) for p, rows in PATTERNS.items()], ids=list(PATTERNS)
)
async def test_a_pattern_matches_its_values_and_no_others(
    instance: Instance, client: Client, pattern: str, values: list[str], others: list[str]
) -> None:
    for value in others:
        await instance.worker("other", capability={"k": value}, answer=lambda _: reply(request_id="wrong"))
    assert (await client.refused(request(), query={"k": pattern})).code is Code.NOT_FOUND
    for value in values:
        worker = await named_worker(instance, "m", worker_id=f"={value}", capability={"k": value})
        assert await answering(client, 2, request(), query={"k": pattern}) == {f"={value}"}
        await worker.close()
        await instance.unregister(worker.worker_id)


async def test_many_globs_do_not_hang_the_agent(instance: Instance, client: Client) -> None:
    await named_worker(instance, "m", capability={"k": "a" * 256})
    assert (await client.refused(request(), query={"k": "a*" * 100 + "b"})).code is Code.NOT_FOUND
