"""What the wire between hosts shows: mutual TLS on the mesh's port, and nowhere the payload."""

import struct


def packets(path):
    """(time, Ethernet frame) of a classic pcap file, as far as it goes."""
    with open(path, "rb") as f:
        head = f.read(24)
        if len(head) < 24:
            return
        order = "<" if head[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
        scale = 1e9 if head[:4] in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1e6
        while True:
            record = f.read(16)
            if len(record) < 16:
                return
            s, sub, n, _ = struct.unpack(order + "IIII", record)
            frame = f.read(n)
            if len(frame) < n:
                return
            yield s + sub / scale, frame


def tcp_payload(frame):
    """(source, sport, destination, dport, payload) of an IPv4 TCP segment, or None."""
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return None
    ihl = (frame[14] & 15) * 4
    total = struct.unpack(">H", frame[16:18])[0]
    l4 = 14 + ihl
    doff = (frame[l4 + 12] >> 4) * 4
    sport, dport = struct.unpack(">HH", frame[l4:l4 + 4])
    end = 14 + total if total else len(frame)
    return ".".join(map(str, frame[26:30])), sport, ".".join(map(str, frame[30:34])), dport, frame[l4 + doff:end]


def analyse(path, secret, hbone_port=15008):
    """Counts what the capture holds of the mesh's connections, and every frame in which @secret is readable."""
    seen = {"frames": 0, "tls_connections": 0, "tls_bytes": 0, "not_tls": 0, "plaintext": 0, "pairs": []}
    first = {}
    pairs = set()
    for _, frame in packets(path):
        seen["frames"] += 1
        if secret in frame:
            seen["plaintext"] += 1
        t = tcp_payload(frame)
        if not t or not t[4] or hbone_port not in (t[1], t[3]):
            continue
        src, sport, dst, dport, payload = t
        seen["tls_bytes"] += len(payload)
        key = (src, sport, dst, dport)
        if key in first:
            continue
        first[key] = payload[:3]
        # RFC 8446, section 5.1: a handshake record of any version begins 22, 3, 1..3
        if payload[0] == 22 and payload[1] == 3:
            if dport == hbone_port:
                seen["tls_connections"] += 1
                pairs.add("%s -> %s" % (src, dst))
        else:
            seen["not_tls"] += 1
    seen["pairs"] = sorted(pairs)
    return seen
