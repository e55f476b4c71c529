"""Protobuf by hand: fields by their numbers, with no code made from definitions (and nothing but Python)."""

import struct


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """One field: int and bool as varint, str, bytes and nested (bytes) with their length; a list repeats."""
    if isinstance(value, list):
        return b"".join(field(number, v) for v in value)
    if isinstance(value, (bool, int)):
        return varint(number << 3) + varint(int(value))
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(**values):
    """message(f1="x", f4=3)"""
    return b"".join(field(int(k[1:]), v) for k, v in values.items())


def fields(data):
    """(number, value) of a message's fields, one after the other: bytes, or a number."""
    at = 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                return n

    while at < len(data):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        elif key & 7 == 2:
            size = number()
            yield key >> 3, data[at:at + size]
            at += size
        else:
            size = {1: 8, 5: 4}[key & 7]
            yield key >> 3, struct.unpack_from("<Q" if size == 8 else "<I", data, at)[0]
            at += size


def parse(data):
    """{number: [values]}; lengths stay bytes."""
    got = {}
    for number, value in fields(data):
        got.setdefault(number, []).append(value)
    return got
