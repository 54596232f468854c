"""Media masks against their definition, token by token."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import host, on

import perceiver_ref as pr
from perceiver_ref.models.flamingo import media_mask, preceding

locations = hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9)))


@given(where=locations, media=st.integers(0, 4), tokens=st.integers(1, 3), which=st.sampled_from(["immediate", "all"]))
def test_the_mask_of_any_interleaving_is_its_definition(
    backend: str, where: np.ndarray, media: int, tokens: int, which: Any
) -> None:
    phi = preceding(on(backend, where))
    made = host(media_mask(phi, media=media, tokens=tokens, which=which))
    for b, row in enumerate(where):
        for i in range(len(row)):
            seen = sum(bool(tag) for tag in row[: i + 1])
            for key in range(media * tokens):
                medium = key // tokens + 1  # counted from 1, as the paper's phi is
                assert made.attend[b, i, key] == (medium == seen if which == "immediate" else medium <= seen)
            if which == "immediate":
                assert made.seen[b, i] == (seen > 0)
    assert made.attend.shape == (*where.shape, media * tokens)
    assert (made.seen is None) == (which == "all")


@given(where=locations, data=st.data())
def test_phi_continues_where_a_cached_prompt_ended(backend: str, where: np.ndarray, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, where.shape[1]))
    whole = host(preceding(on(backend, where)))
    before = preceding(on(backend, where[:, :cut]))
    after = host(preceding(on(backend, where[:, cut:]), before[:, -1]))
    np.testing.assert_array_equal(np.concatenate([host(before), after], 1), whole)


def test_what_is_not_a_row_of_tags_is_refused() -> None:
    tags = np.array([[True, False]])
    with pytest.raises(pr.InputError, match=re.escape("must be bool of shape (batch, tokens), got int64 of (1, 2)")):
        preceding(tags.astype(np.int64))
    with pytest.raises(pr.InputError, match=re.escape("must be bool of shape (batch, tokens), got bool of (2,)")):
        preceding(tags[0])
    with pytest.raises(pr.InputError, match=re.escape("the media seen before must be integers of shape (1,)")):
        preceding(tags, np.zeros(2, np.int64))
    with pytest.raises(pr.InputError, match=re.escape("unknown media option 'last'")):
        media_mask(preceding(tags), media=1, tokens=1, which="last")  # type: ignore[arg-type]
