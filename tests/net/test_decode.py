"""outrigger decode over real captures, and over the same conversations as other networks would show them.

tests/captures/NAME.pcap is decoded and compared with NAME.expect.json, a JSON object a line, which was checked by
hand against tshark. Then the frames are cut, tagged, doubled, shuffled, merged and lost in ways that change
nothing of what was said: the observations must be the same. Needs no root.
"""
import json
import os
import pathlib
import random
import struct
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTRIGGER = pathlib.Path(os.environ.get("OUTRIGGER_BUILD", ROOT / "build")) / "src/ctl/outrigger"
CAPTURES = sorted((ROOT / "tests/captures").glob("*.pcap"))
EXPECTED = [c for c in CAPTURES if c.with_suffix(".expect.json").exists()]


def decode(path, *args, code=0):
    run = subprocess.run([OUTRIGGER, "decode", "--json", *args, path], capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def said(observations, but=("frame",)):
    """What was said, whatever the frame and the order of its end."""
    return sorted(json.dumps({k: v for k, v in o.items() if k not in but}, sort_keys=True) for o in observations)


@pytest.mark.parametrize("capture", EXPECTED, ids=lambda c: c.stem)
def test_capture_decodes_as_expected(capture):
    expected = [json.loads(line) for line in capture.with_suffix(".expect.json").read_text().splitlines()]
    assert decode(capture)[0] == expected


def test_there_is_something_to_expect():
    assert len(EXPECTED) >= 10


# Captures as lists of (time in ns, frame)


def read(path):
    data, at, frames = path.read_bytes(), 24, []
    while at < len(data):
        s, us, size, _ = struct.unpack_from("<IIII", data, at)
        frames.append((s * 10**9 + us * 1000, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return frames


def pcap(frames, link=1, order="<", ns=False, snap=None):
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if ns else 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)]
    for t, f in frames:
        cut = f if snap is None else f[:snap]
        out.append(struct.pack(order + "IIII", t // 10**9, t % 10**9 // (1 if ns else 1000), len(cut), len(f)) + cut)
    return b"".join(out)


def pcapng(frames, order="<"):
    def block(kind, body):
        body += bytes(-len(body) % 4)
        return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)

    out = [block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    out.append(block(1, struct.pack(order + "HHIHHB3xI", 1, 0, 0, 9, 1, 9, 0)))
    out.append(block(5, bytes(12)))
    for t, f in frames:
        out.append(block(6, struct.pack(order + "IIIII", 0, t >> 32, t & 0xFFFFFFFF, len(f), len(f)) + f))
    return b"".join(out)


def tcp(frame):
    """(header up to TCP's data, data) of TCP over IPv4 in Ethernet, else None."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return None
    ip = 14 + (frame[14] & 15) * 4
    start = ip + (frame[ip + 12] >> 4) * 4
    end = 14 + struct.unpack_from(">H", frame, 16)[0]
    return frame[:start], frame[start:end]


def segment(head, data, offset=0, last=True):
    """The same header over other data, @offset bytes further on in the stream."""
    ip = 14 + (head[14] & 15) * 4
    h = bytearray(head)
    struct.pack_into(">H", h, 16, len(head) - 14 + len(data))
    struct.pack_into(">I", h, ip + 4, (struct.unpack_from(">I", h, ip + 4)[0] + offset) & 0xFFFFFFFF)
    if not last:
        h[ip + 13] &= ~0x09  # FIN and PSH go with the last
    return bytes(h) + data


def small_segments(frames, size):
    out = []
    for t, f in frames:
        parts = tcp(f)
        if not parts or not parts[1]:
            out.append((t, f))
            continue
        head, data = parts
        for at in range(0, len(data), size):
            out.append((t, segment(head, data[at : at + size], at, at + size >= len(data))))
    return out


def repeated(frames, rng):
    """Segments come again, with bytes around them: what retransmission by another size looks like."""
    out = []
    for t, f in frames:
        out.append((t, f))
        parts = tcp(f)
        if parts and len(parts[1]) > 4 and rng.random() < 0.5:
            head, data = parts
            cut = rng.randrange(1, len(data))
            out.append((t, segment(head, data[:cut], 0, False)))
            out.append((t, segment(head, data[cut:], cut)))
    return out


def key(frame):
    ip = 14 + (frame[14] & 15) * 4
    return tuple(sorted((frame[26:30] + frame[ip : ip + 2], frame[30:34] + frame[ip + 2 : ip + 4])))


def shuffled(frames, rng):
    """Neighbours that belong to the same TCP connection change places; a SYN keeps its own."""
    frames = list(frames)
    i = 1
    while i < len(frames):
        a, b = frames[i - 1][1], frames[i][1]
        both = tcp(a) and tcp(b) and key(a) == key(b)
        if both and not (a[14 + 20 + 13] | b[14 + 20 + 13]) & 2 and rng.random() < 0.5:
            frames[i - 1], frames[i] = (frames[i - 1][0], b), (frames[i][0], a)
            i += 1
        i += 1
    return frames


def super_frames(frames):
    """Segments that follow each other in one direction become one, as a NIC's TSO has them."""
    out = []
    for t, f in frames:
        parts = tcp(f)
        before = tcp(out[-1][1]) if out else None
        if parts and before and parts[1] and before[1] and len(parts[1]) + len(before[1]) < 60000:
            (h1, d1), (h2, d2) = before, parts
            ip = 14 + (h1[14] & 15) * 4
            seq1, seq2 = (struct.unpack_from(">I", h, ip + 4)[0] for h in (h1, h2))
            if h1[26 : ip + 4] == h2[26 : ip + 4] and (seq1 + len(d1)) & 0xFFFFFFFF == seq2:
                merged = bytearray(segment(h1, d1 + d2))
                merged[ip + 13] |= h2[ip + 13]
                out[-1] = (out[-1][0], bytes(merged))
                continue
        out.append((t, f))
    return out


def without_pure_acks(frames):
    def is_pure(f):
        parts = tcp(f)
        return parts and not parts[1] and not f[14 + (f[14] & 15) * 4 + 13] & 7

    return [(t, f) for t, f in frames if not is_pure(f)]


def tagged(frames, *tags):
    return [(t, f[:12] + b"".join(struct.pack(">HH", 0x8100, v) for v in tags) + f[12:]) for t, f in frames]


def cooked(frames):
    return [(t, b"\0\0\0\1\0\6" + f[6:12] + b"\0\0" + f[12:]) for t, f in frames]


def cooked2(frames):
    return [(t, f[12:14] + b"\0\0\0\0\0\2\0\1\0\6" + f[6:12] + b"\0\0" + f[14:]) for t, f in frames]


def padded(frames):
    return [(t, f + bytes(max(0, 60 - len(f))) + b"\xde\xad\xbe\xef") for t, f in frames]


def wrapped_around(frames):
    """Sequence numbers that pass zero in the middle of each connection."""
    first, out = {}, []
    for t, f in frames:
        if not tcp(f):
            out.append((t, f))
            continue
        ip = 14 + (f[14] & 15) * 4
        me = f[26:34] + f[ip : ip + 4]
        peer = f[30:34] + f[26:30] + f[ip + 2 : ip + 4] + f[ip : ip + 2]
        seq, ack = struct.unpack_from(">II", f, ip + 4)
        if me not in first or f[ip + 13] & 2:
            first[me] = seq
        h = bytearray(f)
        struct.pack_into(">I", h, ip + 4, (seq - first[me] - 40) & 0xFFFFFFFF)
        if f[ip + 13] & 16 and peer in first:
            struct.pack_into(">I", h, ip + 8, (ack - first[peer] - 40) & 0xFFFFFFFF)
        out.append((t, bytes(h)))
    return out


def fragmented(frames, size, rng):
    """IP fragments of at most @size bytes, in any order: what a small MTU makes of datagrams."""
    out = []
    for n, (t, f) in enumerate(frames):
        if f[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            out.append((t, f))
            continue
        four = f[12] == 8
        head = 14 + (f[14] & 15) * 4 if four else 54
        end = 14 + struct.unpack_from(">H", f, 16)[0] if four else 54 + struct.unpack_from(">H", f, 18)[0]
        data, parts = f[head:end], []
        if four and struct.unpack_from(">H", f, 20)[0] & 0x3FFF:  # is one already
            out.append((t, f))
            continue
        for at in range(0, len(data), size):
            part, more = data[at : at + size], at + size < len(data)
            h = bytearray(f[:head])
            if four:
                struct.pack_into(">HHH", h, 16, head - 14 + len(part), n & 0xFFFF, (0x2000 if more else 0) | at // 8)
            elif len(data) > size:
                h += struct.pack(">BBHI", h[20], 0, at | more, n)
                h[20] = 44
                struct.pack_into(">H", h, 18, 8 + len(part))
            parts.append((t, bytes(h) + part))
        rng.shuffle(parts)
        out += parts
    return out


def overlapping(frames, rng):
    """Each segment begins with bytes of the one before, and the same bytes come again: other sizes of retransmission."""
    out, before = [], {}
    for t, f in frames:
        parts = tcp(f)
        if not parts or not parts[1]:
            out.append((t, f))
            continue
        head, data = parts
        ip = 14 + (head[14] & 15) * 4
        flow, seq = head[26 : ip + 4], struct.unpack_from(">I", head, ip + 4)[0]
        last, end = before.get(flow, (b"", None))
        n = rng.randrange(len(last) + 1) if end == seq else 0
        out.append((t, segment(head, last[len(last) - n :] + data, -n)))
        before[flow] = (data, (seq + len(data)) & 0xFFFFFFFF)
    return out


def with_keepalives(frames):
    """Probes (RFC 9293, section 3.8.4) before each segment: one byte, or none, from just before the window. Zero windows."""
    out, started = [], set()
    for t, f in frames:
        parts = tcp(f)
        if parts:
            head = parts[0]
            ip = 14 + (head[14] & 15) * 4
            flow = head[26 : ip + 4]
            if flow in started and not head[ip + 13] & 7:
                plain = bytearray(head)
                plain[ip + 13] = 0x10
                struct.pack_into(">H", plain, ip + 14, 0)
                out.append((t, segment(bytes(plain), b"\0", -1)))
                out.append((t, segment(bytes(plain), b"", -1)))
            if parts[1]:
                started.add(flow)
        out.append((t, f))
    return out


def reset_at_the_end(frames):
    """Instead of its last FIN, and after it, a connection is reset."""
    out, fins = list(frames), {}
    for i, (t, f) in enumerate(frames):
        parts = tcp(f)
        if parts and f[14 + (f[14] & 15) * 4 + 13] & 1:
            fins[key(f)] = i
    for i in sorted(fins.values(), reverse=True):
        t, f = out[i]
        head, data = tcp(f)
        ip = 14 + (head[14] & 15) * 4
        rst = bytearray(segment(head, b"", len(data) + 1))
        rst[ip + 13] = 0x14
        out.insert(i + 1, (t, bytes(rst)))
    return out


VARIANTS = {
    "fragments-of-48": lambda f, r: pcap(fragmented(f, 48, r)),
    "fragments-of-512": lambda f, r: pcap(fragmented(f, 512, r)),
    "mss1": lambda f, r: pcap(small_segments(f, 1)),
    "mss536-overlapping": lambda f, r: pcap(overlapping(small_segments(f, 536), r)),
    "mss30-overlapping-shuffled": lambda f, r: pcap(shuffled(overlapping(small_segments(f, 30), r), r)),
    "keep-alives": lambda f, r: pcap(with_keepalives(f)),
    "mss60-keep-alives-repeated": lambda f, r: pcap(repeated(with_keepalives(small_segments(f, 60)), r)),
    "reset": lambda f, r: pcap(reset_at_the_end(f)),
    "mss7": lambda f, r: pcap(small_segments(f, 7)),
    "mss100-shuffled": lambda f, r: pcap(shuffled(small_segments(f, 100), r)),
    "mss40-repeated": lambda f, r: pcap(repeated(small_segments(f, 40), r)),
    "mss40-repeated-shuffled": lambda f, r: pcap(shuffled(repeated(small_segments(f, 40), r), r)),
    "super-frames": lambda f, r: pcap(super_frames(without_pure_acks(f))),
    "no-pure-acks": lambda f, r: pcap(without_pure_acks(f)),
    "wrapped-around": lambda f, r: pcap(wrapped_around(f)),
    "seen-twice": lambda f, r: pcap([x for x in f for _ in (0, 1)]),
    "seen-twice-tagged": lambda f, r: pcap([y for x in f for y in (x, tagged([x], 7)[0])]),
    "vlan": lambda f, r: pcap(tagged(f, 100)),
    "qinq": lambda f, r: pcap(tagged(f, 100, 4000)),
    "padded": lambda f, r: pcap(padded(f)),
    "cooked": lambda f, r: pcap(cooked(f), link=113),
    "cooked2": lambda f, r: pcap(cooked2(f), link=276),
    "big-endian": lambda f, r: pcap(f, order=">"),
    "nanoseconds": lambda f, r: pcap(f, ns=True),
    "pcapng": lambda f, r: pcapng(f),
    "pcapng-big-endian": lambda f, r: pcapng(f, ">"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.stem)
def test_the_same_conversation_in_another_shape(capture, variant, tmp_path):
    path = tmp_path / "variant.pcap"
    path.write_bytes(VARIANTS[variant](read(capture), random.Random(variant)))
    assert said(decode(path)[0]) == said(decode(capture)[0])


def less_of(lossy, whole):
    """Does @lossy say what @whole says, or a part of it? A name may be known as the user wrote it only.

    What goes may be known as it was before a change that was lost, and a guest by its link-local address only.
    """

    def fits(key):
        return lossy[key] is None or lossy[key] == whole[key]

    name = fits("service") or (whole["service"] or "").startswith(lossy["service"] + ".")
    if lossy["protocol"] == "dns" and lossy["kind"] == "discover" and lossy["service"]:
        # Of a search or of an SRV record, what was asked for to the end may be all that is left.
        name = name or lossy["service"].startswith((whole["service"] or "") + ".")
        name = name or lossy["service"].split(".")[0] == (whole["service"] or "").split(".")[0]
    kind = fits("kind") or (lossy["kind"], whole["kind"]) == ("deregister", "register")
    guest = fits("guest") or lossy["guest"].startswith("fe80:")
    return name and kind and guest and all(fits(key) for key in ("protocol", "instance", "port"))


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.stem)
def test_a_lost_packet_makes_nothing_up(capture, tmp_path):
    frames, whole = read(capture), decode(capture)[0]
    rng = random.Random(capture.stem)
    for lost in rng.sample(range(len(frames)), min(12, len(frames))):
        path = tmp_path / "lossy.pcap"
        path.write_bytes(pcap(frames[:lost] + frames[lost + 1 :]))
        for o in decode(path)[0]:
            assert any(less_of(o, w) for w in whole), f"frame {lost + 1} lost"


def made_up(frames, whole, tmp_path):
    path = tmp_path / "lossy.pcap"
    path.write_bytes(frames if isinstance(frames, bytes) else pcap(frames))
    return [o for o in decode(path)[0] if not any(less_of(o, w) or asked_for_instance(o, w) for w in whole)]


def asked_for_instance(lossy, whole):
    return lossy["protocol"] == "dns" and lossy["kind"] == "discover" and lossy["service"] == whole["instance"]


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.stem)
def test_lost_bursts_make_nothing_up(capture, tmp_path):
    frames, whole = read(capture), decode(capture)[0]
    rng = random.Random(capture.stem)
    for _ in range(12):
        at, n = rng.randrange(len(frames)), rng.randrange(2, 8)
        assert made_up(frames[:at] + frames[at + n :], whole, tmp_path) == [], f"frames {at + 1} to {at + n} lost"
    for _ in range(4):
        assert made_up([f for f in frames if rng.random() > 0.1], whole, tmp_path) == []


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.stem)
def test_cut_packets_make_nothing_up(capture, tmp_path):
    frames, whole = read(capture), decode(capture)[0]
    for snap in (54, 68, 80, 96, 110, 128, 150, 200, 300, 600):
        assert made_up(pcap(frames, snap=snap), whole, tmp_path) == [], f"after {snap} bytes"


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda c: c.stem)
def test_a_late_start_makes_nothing_up(capture, tmp_path):
    frames, whole = read(capture), decode(capture)[0]
    for start in random.Random(capture.stem).sample(range(len(frames)), min(12, len(frames))):
        assert made_up(frames[start:], whole, tmp_path) == [], f"from frame {start + 1}"


def as_ipv6(frames):
    def address(v4):
        return bytes.fromhex("fd000000000000000000ffff") + v4

    out = []
    for t, f in frames:
        if f[12:14] != b"\x08\x00":
            continue
        ip = 14 + (f[14] & 15) * 4
        data, proto = f[ip : 14 + struct.unpack_from(">H", f, 16)[0]], f[23]
        n, fragment = struct.unpack_from(">HH", f, 18)
        if fragment & 0x3FFF:
            data = struct.pack(">BBHI", proto, 0, (fragment & 0x1FFF) << 3 | fragment >> 13, n) + data
            proto = 44
        six = struct.pack(">IHBB", 0x60000000, len(data), proto, 64) + address(f[26:30]) + address(f[30:34])
        out.append((t, f[:12] + b"\x86\xdd" + six + data))
    return out


@pytest.mark.parametrize("capture", [c for c in CAPTURES if c.stem.startswith("dns-")], ids=lambda c: c.stem)
def test_the_same_lookups_over_ipv6(capture, tmp_path):
    path, v4 = tmp_path / "six.pcap", tmp_path / "four.pcap"
    four = [(t, f) for t, f in read(capture) if f[12:14] == b"\x08\x00"]
    v4.write_bytes(pcap(four))
    path.write_bytes(pcap(as_ipv6(four)))
    six = decode(path)[0]
    assert all(o["guest"].startswith("fd00::ffff:") for o in six)
    assert said(six, ("frame", "guest")) == said(decode(v4)[0], ("frame", "guest"))


def is_query_over_udp(f):
    return f[12:14] == b"\x08\x00" and f[23] == 17 and f[36:38] == b"\x00\x35"


@pytest.mark.parametrize("capture", [c for c in CAPTURES if c.stem.startswith("dns-")], ids=lambda c: c.stem)
def test_answers_alone_say_what_was_asked(capture, tmp_path):
    lookups = [o for o in decode(capture)[0] if o["kind"] in ("discover", "answer")]
    path = tmp_path / "answers.pcap"
    path.write_bytes(pcap([(t, f) for t, f in read(capture) if not is_query_over_udp(f)]))
    alone = [o for o in decode(path)[0] if o["kind"] in ("discover", "answer")]
    assert said(alone) == said(lookups)


DIG = ROOT / "tests/captures/dns-query-dig-9.18-glibc.pcap"


def test_only_the_guest_that_was_asked_for():
    assert decode(DIG, "--guest", "10.99.0.2")[0] == decode(DIG)[0]
    assert decode(DIG, "--guest", "10.99.0.0/24")[0] == decode(DIG)[0]
    assert decode(DIG, "--guest", "10.99.0.1")[0] == []


def test_what_a_browsing_guest_is_told():
    told = decode(ROOT / "tests/captures/mdns-avahi-0.8-publish-zeroconf-browse.pcap", "--guest", "10.99.0.1")[0]
    assert [(o["kind"], o["service"], o["port"]) for o in told] == [
        ("discover", "_grpc._tcp.local", None),
        ("discover", "_http._tcp.local", None),
        ("discover", "_ipp._tcp.local", None),
        ("answer", "Web on vm-a", 9090),
        ("answer", "Web on vm-a", 8080),
    ]


def test_another_port(tmp_path):
    frames = [(t, f.replace(b"\x00\x35", b"\x13\x8d", 1)) for t, f in read(DIG) if not tcp(f)]
    path = tmp_path / "port.pcap"
    path.write_bytes(pcap(frames))
    assert decode(path)[0] == []
    assert len(decode(path, "--port", "dns=5005")[0]) > 5


def test_a_cut_file_says_where_after_what_was_decoded(tmp_path):
    data = DIG.read_bytes()
    path = tmp_path / "cut.pcap"
    path.write_bytes(data[: 24 + 16 * 2 + 278 + 71 + 16 + 98 + 16 + 130 + 20])
    seen, error = decode(path, code=1)
    assert [o["frame"] for o in seen] == [2, 2, 2, 3, 4]
    assert error == f"outrigger decode: {path}: the file ends within frame 5, which begins at offset 665\n"


@pytest.mark.parametrize(
    "data, error",
    [
        (b"", "neither pcap nor pcapng: it begins with nothing: it is empty"),
        (b"GIF89a..", "neither pcap nor pcapng: it begins with 47 49 46 38"),
        (pcap([(0, b"x" * 60)], link=147), "frame 1: link type 147 is not known"),
        (pcap([])[:20], "the file ends within frame 1"),
        (pcap([]) + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30), "malformed at offset 24, after frame 0"),
    ],
)
def test_files_that_are_none(tmp_path, data, error):
    path = tmp_path / "bad"
    path.write_bytes(data)
    assert error in decode(path, code=1)[1]


@pytest.mark.parametrize(
    "args, error",
    [
        (["--nonsense", "x"], "no such option: '--nonsense'"),
        ([], "too few arguments"),
        (["a", "b"], "too many arguments: 'b'"),
        (["--guest", "10.0.0.300", "x"], "--guest: '10.0.0.300' is no address or prefix"),
        (["--port", "smtp=25", "x"], "--port: 'smtp': no such protocol"),
        (["--port", "dns", "x"], "--port: 'dns' is not of the form PROTOCOL=PORT"),
        (["--port", "dns=0", "x"], "--port: 0 is not within 1 to 65535"),
    ],
)
def test_wrong_usage_names_the_word(args, error):
    run = subprocess.run([OUTRIGGER, "decode", *args], capture_output=True, text=True)
    assert run.returncode == 2
    assert error in run.stderr


def test_a_missing_file():
    run = subprocess.run([OUTRIGGER, "decode", "/nonexistent"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "outrigger decode: /nonexistent: No such file or directory\n"
