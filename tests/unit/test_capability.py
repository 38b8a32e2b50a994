"""Capabilities, patterns and queries."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve.capability import Capability, InvalidCapability, Match, decimal
from support.policies import Policy

KEYS = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)


class TestCapability:
    def test_encoded_sorts_keys_and_percent_encodes(self, policy: Policy) -> None:
        assert (
            policy.Capability({"type": "chat", "model": "a=b,c %ü"}).encoded == "model=a%3Db%2Cc%20%25%C3%BC,type=chat"
        )

    @given(st.dictionaries(KEYS, VALUES, max_size=8))
    def test_encoding_round_trips(self, policy: Policy, items: dict[str, str]) -> None:
        assert dict(policy.decode_capability(policy.Capability(items).encoded).items()) == items

    def test_equals_any_mapping_with_the_same_items(self) -> None:
        assert Capability({"b": "2", "a": "1"}) == {"a": "1", "b": "2"}
        assert Capability({"a": "1"}) != {"a": "2"}
        assert len({Capability({"a": "1"}), Capability({"a": "1"})}) == 1

    @pytest.mark.parametrize(
        ("items", "said"),
        [
            ({"Type": "chat"}, "'Type'"),
            ({"": "chat"}, "''"),
            ({"-a": "chat"}, "'-a'"),
            ({"a" * 65: "chat"}, "64"),
            ({"type": ""}, "'type'"),
            ({"type": "x" * 257}, "256"),
            ({"type": "a\nb"}, "control"),
            ({f"k{n}": "v" for n in range(33)}, "33"),
        ],
    )
    def test_refuses_what_breaks_a_rule_and_names_it(self, policy: Policy, items: dict[str, str], said: str) -> None:
        with pytest.raises(policy.InvalidCapability, match=said):
            policy.Capability(items)

    def test_refuses_what_is_no_text(self) -> None:
        with pytest.raises(InvalidCapability, match="strings"):
            Capability({"type": 1})  # type: ignore[dict-item]

    @pytest.mark.parametrize("encoded", ["a", "a=1,a=2", "a=%zz", "a=%ff", "=1", "a=1,"])
    def test_decoding_refuses_malformed_text(self, policy: Policy, encoded: str) -> None:
        with pytest.raises(policy.InvalidCapability):
            policy.decode_capability(encoded)


class TestPattern:
    @pytest.mark.parametrize(
        ("pattern", "value", "match"),
        [
            ("chat", "chat", Match.EXACT),
            ("chat", "chats", Match.NONE),
            ("a|b", "b", Match.EXACT),
            ("a|b", "a|b", Match.NONE),
            ("a*|b", "abc", Match.PATTERN),
            ("a*|abc", "abc", Match.EXACT),
            ("llama-*", "llama-70b", Match.PATTERN),
            ("llama-?", "llama-70b", Match.NONE),
            ("*", "anything", Match.PATTERN),
            ("a[b]*", "a[b]c", Match.PATTERN),
            ("a[b]*", "abc", Match.NONE),
            (">=2", "2.0", Match.PATTERN),
            (">2", "2", Match.NONE),
            (">9", "10", Match.PATTERN),
            ("<=-1.5", "-2", Match.PATTERN),
            ("<3", "three", Match.NONE),
            ("<3", "1e0", Match.NONE),
            ("!=a", "b", Match.PATTERN),
            ("!=a", "a", Match.NONE),
            ("!=a|b", "a", Match.PATTERN),
        ],
    )
    def test_forms(self, policy: Policy, pattern: str, value: str, match: Match) -> None:
        assert policy.Pattern.parse(pattern).match(value) == match

    @pytest.mark.parametrize("text", ["", "a|", "|", ">", ">=x", "<1e3", "<.5", "!=", "x" * 1025])
    def test_malformed(self, policy: Policy, text: str) -> None:
        with pytest.raises(policy.InvalidQuery):
            policy.Pattern.parse(text)

    @given(st.text("ab*?", min_size=1, max_size=8), st.text("ab", max_size=8))
    def test_globs_agree_with_fnmatch(self, policy: Policy, pattern: str, value: str) -> None:
        wanted = value == pattern or (("*" in pattern or "?" in pattern) and fnmatch.fnmatchcase(value, pattern))
        assert bool(policy.Pattern.parse(pattern).match(value)) is wanted

    def test_many_stars_take_no_exponential_time(self, policy: Policy) -> None:
        pattern = policy.Pattern.parse("*a" * 500 + "b")
        began = time.process_time()
        assert pattern.match("a" * 256) == Match.NONE
        assert time.process_time() - began < 5  # backtracking would take longer than the universe has


class TestQuery:
    def test_matches_only_when_every_key_does(self, policy: Policy) -> None:
        query = policy.Query.parse((("type", "chat"), ("size", ">=7")))
        assert query.exact_matches(policy.Capability({"type": "chat", "size": "70", "more": "x"})) == 1
        assert query.exact_matches(policy.Capability({"type": "chat", "size": "3"})) is None
        assert query.exact_matches(policy.Capability({"type": "chat"})) is None

    def test_patterns_are_percent_decoded(self, policy: Policy) -> None:
        assert policy.Query.parse((("type", "caf%C3%A9"),)).exact_matches(policy.Capability({"type": "café"})) == 1

    @pytest.mark.parametrize(
        ("items", "said"),
        [
            ((("type", "a"), ("type", "b")), "twice"),
            ((("", "a"),), "x-cap-"),
            ((("Type", "a"),), "x-cap-Type"),
            ((("type", "50%"),), "%25"),
            ((("type", "%ff"),), "UTF-8"),
            ((("type", ""),), "x-cap-type"),
            (tuple((f"k{n}", "v") for n in range(33)), "33"),
        ],
    )
    def test_refuses_malformed_queries_and_names_the_key(
        self, policy: Policy, items: tuple[tuple[str, str], ...], said: str
    ) -> None:
        with pytest.raises(policy.InvalidQuery, match=said):
            policy.Query.parse(items)


@given(st.integers(-(10**9), 10**9))
def test_decimal_reads_integers(number: int) -> None:
    assert decimal(str(number)) == number
    assert decimal(f"{number}x") is None
