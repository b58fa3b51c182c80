"""rvsm.handwriting.texts: words enough to keep those of training and test apart."""

from rvsm.handwriting.texts import words


def test_many_different_words_of_letters_alone() -> None:
    found = words()
    assert len(found) > 1000
    assert len(set(found)) == len(found)
    assert all(word.isalpha() for word in found)


def test_words_fit_an_image_and_hold_short_ones_to_join() -> None:
    lengths = [len(word) for word in words()]
    assert max(lengths) <= 12
    assert sum(length <= 5 for length in lengths) > 200


def test_both_languages() -> None:
    found = words()
    assert "about" in found
    assert sum(not word.isascii() for word in found) > 20
