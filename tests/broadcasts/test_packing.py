"""What a batch's bytes hold: the law of packing, and how few they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_push.broadcasts.packing import UnknownPacking, owner_checksum, pack, unpack

keys = st.integers(1, 2**63 - 1) | st.integers(1, 400) | st.integers(2**32 - 300, 2**32 + 300)
owners = st.just(0) | st.integers(0, 2**32 - 1)
batches = st.dictionaries(keys, owners, max_size=60)


@given(batches)
def test_law(chosen):
    """What is packed comes out again, in the order of the keys, whatever the order it went in."""
    expected = sorted(chosen.items())
    assert expected == unpack(pack(chosen.items()))
    assert pack(expected) == pack(reversed(expected))
    assert expected == unpack(memoryview(pack(expected)))


@given(batches.filter(bool), st.data())
def test_twice(chosen, data):
    """A key that comes twice is refused, even for another owner."""
    again = data.draw(st.sampled_from(sorted(chosen)))
    with pytest.raises(ValueError, match="twice"):
        pack([*chosen.items(), (again, data.draw(owners))])


def test_empty():
    """No tokens are no bytes."""
    assert pack([]) == b""
    assert unpack(b"") == []


@pytest.mark.parametrize("gap", [1, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32])
def test_widths(gap):
    """Gaps of each width come out again."""
    chosen = [(n * gap + 7, n) for n in range(50)]
    assert chosen == unpack(pack(chosen))


@given(st.integers(1, 2**62), st.binary(min_size=999, max_size=999))
def test_dense(first, gaps):
    """A thousand tokens of a dense table are some five kilobytes, their owners' checksums among them."""
    chosen, pk = [(first, 0)], first
    for gap in gaps:
        pk += gap or 1
        chosen.append((pk, 2**32 - 1))
    packed = pack(chosen)
    assert len(packed) <= 5100
    assert chosen == unpack(packed)


def test_sparse():
    """Of an audience that is a hundredth of its table, a batch is six kilobytes a thousand."""
    assert len(pack((n * 100 + n % 7 * 200, n) for n in range(1, 1001))) <= 6200


def test_newer_code():
    """Bytes of a later version are refused, not misread."""
    with pytest.raises(UnknownPacking):
        unpack(b"2" + pack([(1, 0)])[1:])


@given(st.integers(1, 2**63 - 1) | st.uuids() | st.text(min_size=1, max_size=20))
def test_owners(user):
    """An owner's checksum is 32 bits of the key, the same for the key as text, as some drivers give it."""
    assert 0 <= owner_checksum(user) < 2**32
    assert owner_checksum(user) == owner_checksum(str(user))


def test_nobody():
    """Nobody's checksum is 0, and that of no small key."""
    assert owner_checksum(None) == 0
    assert 0 not in {owner_checksum(pk) for pk in range(10_000)}
