"""Capabilities, patterns and queries: any texts are read, matched and refused alike, in the same words."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anyserve.capability import decimal
from support.examples import examples
from support.policies import Policy
from support.same import same

Both = tuple[Policy, Policy]

# No surrogates: what comes in is UTF-8. Nothing but what can be printed: how the rest is quoted is each one's own.
any_text = st.text(st.characters(exclude_categories=("C", "Z")), max_size=300)
keys = st.one_of(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,70}(-bin)?", fullmatch=True), st.text("aB-_.\n=é", max_size=4))
values = st.one_of(st.text("ab=,%ü\x7f", max_size=4), any_text)
good_keys = st.sampled_from(["a", "b", "c"])
good_values = st.text("ab19é", min_size=1, max_size=3)
decimals = st.from_regex(r"-?[0-9]{1,4}(\.[0-9]{1,4})?", fullmatch=True)
patterns = st.one_of(
    st.text("ab*?|!=<>é[", max_size=8),
    st.tuples(st.sampled_from([">=", "<=", ">", "<", "!=", "="]), st.one_of(decimals, any_text)).map("".join),
    any_text,
)
matched = st.one_of(st.text("abé[", max_size=8), decimals, any_text)
encoded = st.one_of(patterns, st.text("a%2fFé+ ", max_size=8))


@examples(300)
@given(st.dictionaries(keys, values, max_size=1))
def test_an_item_is_taken_or_refused(both: Both, items: dict[str, str]) -> None:
    same(both, lambda policy: described(policy.Capability(items)))


@examples(50)
@given(st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,3}", fullmatch=True), values, max_size=40))
def test_many_items_are_taken_or_refused(both: Both, items: dict[str, str]) -> None:
    same(both, lambda policy: described(policy.Capability(items)), words=False)  # which of several items they name


def described(capability: Any) -> tuple[Any, ...]:
    return capability.encoded, list(capability.items()), len(capability), repr(capability)


@examples(200)
@given(st.one_of(st.text("abc=,%20fF", max_size=12), any_text))
def test_decoding(both: Both, text: str) -> None:
    same(both, lambda policy: described(policy.decode_capability(text)), words=False)


@examples(500)
@given(patterns, matched)
def test_a_pattern_matches(both: Both, pattern: str, value: str) -> None:
    same(both, lambda policy: int(policy.Pattern.parse(pattern).match(value)))


@examples(300)
@given(
    st.lists(st.tuples(st.one_of(good_keys, keys), encoded), max_size=3),
    st.dictionaries(good_keys, good_values, max_size=3),
)
def test_a_query_matches(both: Both, pairs: list[tuple[str, str]], items: dict[str, str]) -> None:
    def read(policy: Policy) -> tuple[str, Any]:
        query = policy.Query.parse(tuple(pairs))
        return str(query), query.exact_matches(policy.Capability(items))

    same(both, read)


@examples(20)
@given(st.integers(30, 35))
def test_many_keys(both: Both, count: int) -> None:
    same(both, lambda policy: str(policy.Query.parse(tuple((f"k{n}", "v") for n in range(count)))))


@examples(300)
@given(*[st.one_of(decimals, st.text("-0.19e٣", max_size=5))] * 2)
def test_numbers_compare_as_decimals(both: Both, first: str, second: str) -> None:
    numbers = decimal(first), decimal(second)
    wanted = None if None in numbers else (numbers[0] > numbers[1]) - (numbers[0] < numbers[1])  # type: ignore[operator]
    assert both[1].compare_decimals(first, second) == wanted
