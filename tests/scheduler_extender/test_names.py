"""Names as bytes say what a JSON decoder says of them, whoever sent them."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler_extender import wire
from scheduler_extender.names import Index, Names

plain = st.text(st.sampled_from("ab-.:/ 0123456789~!"), max_size=12)
alike = st.lists(plain, max_size=40)


def names_of(texts: list[str]) -> Names:
    names = Names.read(msgspec.json.encode(texts))
    assert names is not None
    return names


@given(alike)
def test_plain_names_are_read_as_they_are(texts: list[str]) -> None:
    names = names_of(texts)
    assert [names[index] for index in range(len(names))] == list(names) == names.texts == texts
    assert names == texts


@given(st.binary(max_size=24) | st.text(st.sampled_from('["a,]\\u00e4 \n1'), max_size=16).map(str.encode))
def test_what_is_not_a_plain_list_is_left_to_a_decoder(raw: bytes) -> None:
    names = Names.read(raw)
    if names is not None:
        assert msgspec.json.decode(raw, type=list[str]) == names.texts


@given(alike, st.dictionaries(plain, st.integers(1, 1000), max_size=40))
def test_each_name_has_its_row(texts: list[str], rows: dict[str, int]) -> None:
    texts += list(rows)[::2]
    found = names_of(texts).rows(Index(rows), 0)
    assert found.tolist() == [rows.get(text, 0) for text in texts]


def test_a_name_that_is_not_plain_has_no_row_among_plain_ones() -> None:
    index = Index({"knoten-ä": 1, "knoten": 2})
    assert names_of(["knoten", "knoten-"]).rows(index, 0).tolist() == [2, 0]


@given(alike, st.randoms(use_true_random=False))
def test_marked_names_and_scores_are_written_as_json(texts: list[str], drawn: np.random.Generator) -> None:
    names = names_of(texts)
    kept = np.array([drawn.random() < 0.5 for _ in texts], np.bool_)
    assert names.kept(kept) == [text for text, marked in zip(texts, kept, strict=True) if marked]
    scores = np.array([int(11 * drawn.random()) for _ in texts], np.int64)
    expected = [{"Host": text, "Score": int(score)} for text, score in zip(texts, scores, strict=True)]
    assert msgspec.json.decode(wire.encode_scores(names, scores)) == expected
    assert wire.encode_scores(names, scores) == wire.encode_scores(texts, scores)


def test_answers_are_the_same_for_names_of_any_kind() -> None:
    """Escapes and spaces go the long way and come to the same."""
    for sent in (b'["a","b"]', b'["a", "b"]', b'["\\u0061","b"]'):
        args = wire.decode_args(b'{"Pod":{"metadata":{"uid":"u"}},"NodeNames":' + sent + b"}")
        assert list(args.names) == ["a", "b"]
        assert msgspec.json.decode(wire.encode_filter(args, args.names, {}, {}))["NodeNames"] == ["a", "b"]
