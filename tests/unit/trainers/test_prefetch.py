"""Prompts read ahead of time."""

import threading

import pytest

from glyphrl.trainers.prefetch import PromptReader


@pytest.fixture
def reader():
    """Reads indices as they are and notes where; an index of 9 cannot be read."""
    calls = []

    def encode(indices):
        calls.append((list(indices), threading.current_thread() is threading.main_thread()))
        if 9 in indices:
            raise ValueError("sample 9 cannot be read")
        return list(indices)

    made = PromptReader(encode)
    made.calls = calls
    return made


def test_what_was_begun_is_read_once(reader):
    reader.begin([1, 2])
    assert reader.read([1, 2]) == [1, 2]
    assert reader.calls == [([1, 2], False)]
    assert reader.read([1, 2]) == [1, 2], "and once more where it is asked for again"
    assert reader.calls[1:] == [([1, 2], True)]


def test_another_batch_than_the_one_begun(reader):
    reader.begin([1, 2])
    assert reader.read([3]) == [3]
    assert reader.read([1, 2]) == [1, 2], "what was begun is still there"
    assert sorted(reader.calls) == [([1, 2], False), ([3], True)]


def test_a_fault_shows_when_the_samples_are_asked_for(reader):
    reader.begin([9])
    assert reader.read([1]) == [1]
    with pytest.raises(ValueError, match="sample 9"):
        reader.read([9])
