"""SHA-256, tags, and the trees of RFC 6962 (docs/spec/proof.md)."""

import hashlib


class Reject(Exception):
    """What was shown does not verify."""


def H(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(p)
    return h.digest()


def u16(n):
    return n.to_bytes(2, 'little')


def u32(n):
    return n.to_bytes(4, 'little')


def tag(s):
    return s.encode() + b'\0'


def node(left, right):
    return hashlib.sha256(b'\1' + left + right).digest()


def split(n):
    """Leaves of the left subtree: the largest power of two below n."""
    return 1 << ((n - 1).bit_length() - 1)


def root(leaves):
    n = len(leaves)
    if n == 0:
        return H()
    level = list(leaves)
    while len(level) > 1:
        up = [node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            up.append(level[-1])
        level = up
    return level[0]


def range_root(n, first, leaves, take):
    """The root that leaves [first, first + len(leaves)) of n and a range proof imply; take() gives the proof's next hash."""
    end = first + len(leaves)

    def walk(at, count):
        if at + count <= first or at >= end:
            return take()
        if count == 1:
            return leaves[at - first]
        k = split(count)
        left = walk(at, k)
        return node(left, walk(at + k, count - k))

    return walk(0, n)


def spans(first, count, levels):
    """The subtrees `levels` below one, left to right; a leaf above that depth stands for itself."""
    if levels == 0 or count == 1:
        return [(first, count)]
    k = split(count)
    return spans(first, k, levels - 1) + spans(first + k, count - k, levels - 1)


def spans_root(count, levels, nodes):
    it = iter(nodes)

    def walk(count, levels):
        if levels == 0 or count == 1:
            return next(it)
        k = split(count)
        left = walk(k, levels - 1)
        return node(left, walk(count - k, levels - 1))

    return walk(count, levels)
