"""Packets by hand: what a test wants to have different from what a kernel makes."""

import socket
import struct

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data):
    data += b"\0" * (len(data) % 2)
    n = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while n >> 16:
        n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def tcp(source, destination, flags, seq=0, ack=0, data=b"", options=b""):
    """A segment between two (address, port); @options in whole words."""
    header = struct.pack(">HHIIBBHHH", source[1], destination[1], seq, ack, (20 + len(options)) << 2, flags, 65535, 0, 0) + options + data
    pseudo = packed(source[0]) + packed(destination[0]) + struct.pack(">II", len(header), 6)
    return header[:16] + struct.pack(">H", checksum(pseudo + header)) + header[18:]


def ip4(source, destination, body, fragment=0, more=False, ident=1, protocol=6):
    """@fragment in units of 8 bytes."""
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), ident, fragment | more << 13, 64, protocol, 0) + packed(source) + packed(destination)
    return b"\x08\x00" + ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:] + body


def ip6(source, destination, body, next_header=6, length=None):
    return b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(body) if length is None else length, next_header, 64) + packed(source) + packed(destination) + body


def ip6_fragment(body, next_header, fragment=0, more=False, ident=1):
    return struct.pack(">BBHI", next_header, 0, fragment << 3 | more, ident) + body


def mac(text):
    return bytes.fromhex(text.replace(":", ""))
