"""The other side of heterosock/protocol/messages.h and heterosock/layout/channel.h, for stranger.py.

Written from the comments of these two headers alone. Open Connection first: put() and get() are the two directions.
Loads and stores of whole words through a cast memoryview are single moves and in order on x86; for the full fences see
fence(). What Python lacks is an atomic exchange: `flags` and `returning` are changed where nobody else does.
"""
import fcntl
import mmap
import os
import random
import select
import socket
import struct
import threading
import time

PATIENCE = 60  # seconds for whatever must happen

# messages.h
HELLO, OFFER, RELEASE, HAND_BACK, WELCOME, PAIRED, DECLINED, FENCE = 1, 2, 4, 6, 64, 66, 67, 68
FORMATS = {HELLO: "HHIQ", OFFER: "Q", RELEASE: "QII", HAND_BACK: "Q",
           WELCOME: "HHIQII", PAIRED: "QQQQQQB7x", DECLINED: "QII", FENCE: "QII"}
NOT_TCP, CLOSED, AGENT_FENCE = 4, 18, 43  # reasons.h

# channel.h
HEADER = "=QIIQQQQQ"  # magic, version, ring_bytes, ring_offset[2], channel_id, epoch, nonce
WORDS = {"tail": (0, 8), "ring_base": (8, 8), "ring_size": (16, 4), "head": (128, 8),
         "rx_sleep": (256, 4), "tx_sleep": (260, 4), "flags": (264, 4),
         "armed_epoch": (384, 8), "armed_nonce": (392, 8), "switch_at": (400, 8), "continue_at": (408, 8),
         "recall_at": (416, 8), "returned_to": (424, 8), "returning": (432, 4),
         "tcp_sent": (560, 8), "pid": (576, 4)}
FIN, WANT_TCP, GONE = 1, 2, 4
SENDER_RETURNS, AGENT_RETURNS, SENDER_ANSWERS = 1, 2, 3
MIN_RING = 4096

lock = threading.Lock()


def fence():
    """Taking a lock is an atomic read-modify-write, which on x86 is a full fence."""
    with lock:
        pass


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.001)
    return value


class Agent:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        until(lambda: self.socket.connect_ex(path) == 0, "an agent")
        self.say(HELLO, 1, 1, 2, 0)
        assert self.next()[0] == WELCOME

    def say(self, kind, *fields, fds=()):
        body = struct.pack("=" + FORMATS[kind], *fields)
        socket.send_fds(self.socket, [struct.pack("=HHI", kind, 8 + len(body), 0) + body], fds)

    def next(self, seconds=PATIENCE):
        """The next message: its type, its fields, its descriptors; or None."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return None
        packet, fds, _, _ = socket.recv_fds(self.socket, 128, 3)
        kind, size, zero = struct.unpack("=HHI", packet[:8])
        assert size == len(packet) and zero == 0 and kind in FORMATS, packet
        return kind, struct.unpack("=" + FORMATS[kind], packet[8:]), fds


class Side:
    """The lines of one side of a channel, by name."""

    def __init__(self, memory, number):
        self.base, self.views = 128 + number * 640, {8: memory.cast("Q"), 4: memory.cast("I")}

    def __getitem__(self, name):
        offset, size = WORDS[name]
        return self.views[size][(self.base + offset) // size]

    def __setitem__(self, name, value):
        offset, size = WORDS[name]
        self.views[size][(self.base + offset) // size] = value


class Connection:
    """Our end of a TCP connection, and where its two directions are."""

    def __init__(self, agent, port):
        self.agent, self.mine = agent, None
        self.tcp_sent = self.tcp_got = 0  # before the switch
        self.sending = self.receiving = "tcp"  # then "ring", then "again"
        self.tail = self.head = self.base = self.size = self.dropped = 0
        self.rung, self.woken = {"rx_sleep": 0, "tx_sleep": 0}, 0
        self.when_asleep = lambda: None
        self.tcp = socket.create_connection(("127.0.0.1", port))
        self.tcp.setblocking(False)
        self.offer()

    def __str__(self):
        """What people need to know when it is stuck."""
        sides = [{name: side[name] for name in WORDS} for side in (self.mine, self.peer)] if self.mine else "not mapped"
        return f"sending {self.sending}, receiving {self.receiving}, own and peer {sides}"

    def offer(self):
        self.agent.say(OFFER, random.getrandbits(63) + 1, fds=[self.tcp.fileno()])

    def look_at_answer(self):
        """Maps what PAIRED brings, if it has come."""
        if self.mine is None and (message := self.agent.next(0.02)):
            kind, fields, fds = message
            assert kind == PAIRED, (kind, fields)
            self.map(fields, fds)

    def map(self, fields, fds):
        _, self.id, epoch, nonce, offset, size, side = fields
        memfd, self.bell, self.peer_bell = fds
        assert fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        self.memory = memoryview(mmap.mmap(memfd, size, offset=offset))
        os.close(memfd)
        magic, version, self.ring_bytes, *offsets, channel, header_epoch, header_nonce = struct.unpack_from(HEADER, self.memory)
        assert magic.to_bytes(8, "little") == b"hetosk01" and version == 2 and channel == self.id
        assert (epoch, nonce) == (header_epoch, header_nonce) and side == 0  # we connected
        self.epoch, self.nonce = epoch, nonce
        self.peer = Side(self.memory, 1 - side)
        self.out, self.into = (self.memory[at:at + self.ring_bytes] for at in (offsets[side], offsets[1 - side]))
        self.mine = Side(self.memory, side)
        self.mine["armed_nonce"] = nonce
        self.mine["armed_epoch"] = epoch

    def ring(self, word=None):
        """Wakes the other side: always, or when it sleeps until what `word` says."""
        if word:
            fence()
            value = self.peer[word]
            if value % 2 == 0 or value == self.rung[word]:
                return
            self.rung[word] = value
        try:
            os.write(self.peer_bell, b"8 bytes!")
        except BlockingIOError:
            pass  # rung already

    # Sending.

    def peer_is_armed(self):
        return (self.peer["armed_epoch"], self.peer["armed_nonce"]) == (self.epoch, self.nonce)

    def to_tcp(self, data):
        try:
            return self.tcp.send(data) if data else 0
        except BlockingIOError:
            return 0

    def put(self, data):
        """Sends what there is room for."""
        wants_tcp = self.mine and self.peer["flags"] & (WANT_TCP | FIN | GONE)
        if self.sending == "tcp" and self.mine and not wants_tcp and self.peer_is_armed():
            self.mine["switch_at"] = 1 + self.tcp_sent
            self.sending = "ring"
        if self.sending == "ring" and (wants_tcp or self.mine["returning"]):
            self.bring_back()
        if self.sending != "ring":
            sent = self.to_tcp(data)
            self.tcp_sent += sent if self.sending == "tcp" else 0
            return sent
        unread = self.tail - self.peer["head"]
        assert 0 <= unread <= self.size
        if unread == 0 and (self.size == 0 or random.random() < 0.3):  # only an empty ring may change its shape
            self.base, self.size = self.tail, random.choice([MIN_RING, self.ring_bytes])
            self.mine["ring_base"], self.mine["ring_size"] = self.base, self.size
        count = min(len(data), self.size - unread)
        for start, piece in pieces(self.tail - self.base, count, self.size):
            self.out[start:start + len(piece)] = data[piece.start:piece.stop]
        if count:
            self.tail += count
            self.mine["tail"] = self.tail
            self.ring("rx_sleep")
        return count

    def bring_back(self):
        """Our direction moves to TCP. Python has no exchange, but here nobody else writes `returning` meanwhile."""
        at, recall = self.peer["head"], self.peer["recall_at"]
        if self.mine["returning"] == AGENT_RETURNS:
            at = self.mine["returned_to"] - 1
            if at < 0:
                return  # the agent is at it: the ring goes on
        else:
            self.mine["returning"] = SENDER_ANSWERS if recall else SENDER_RETURNS
            fence()
            recall = self.peer["recall_at"]
        start = recall - 1 if recall else at
        at = max(at, start)
        while at < self.tail:
            here, piece = next(pieces(at - self.base, self.tail - at, self.size))
            sent = self.to_tcp(self.out[here:here + len(piece)])
            if sent == 0 and not recall:
                break  # the receiver has the rest from the ring
            at += sent
        self.mine["returned_to"] = 1 + at
        self.mine["continue_at"] = 1 + start
        self.sending = "again"
        self.ring()

    # Receiving.

    def from_tcp(self, most, flags=0):
        try:
            return self.tcp.recv(most, flags)
        except BlockingIOError:
            return None

    def get(self, most):
        """Up to `most` bytes; b"" at the end of the stream, None when there are none yet."""
        if self.receiving == "tcp":
            # A look first: what comes behind the last byte before the switch may be copies of the ring's.
            data = self.from_tcp(most, socket.MSG_PEEK)
            if self.mine and self.peer["switch_at"]:
                left = self.peer["switch_at"] - 1 - self.tcp_got
                assert left >= 0
                if left == 0:
                    self.receiving = "ring"
                    return self.get(most)
                data = data and data[:left]
            if data:
                self.from_tcp(len(data))
                self.tcp_got += len(data)
            return data
        if self.receiving == "ring":
            ended, came_back, answer = self.from_tcp(1, socket.MSG_PEEK) == b"", self.peer["continue_at"], self.peer["returning"]
            recalled = self.mine["recall_at"]
            if not recalled and (count := min(most, self.peer["tail"] - self.head)):
                return self.from_ring(count)
            if recalled and answer in (AGENT_RETURNS, SENDER_ANSWERS):
                self.receiving = "again"  # all of it is on TCP, or will be
            elif came_back:
                self.receiving = "again"
                self.dropped = (self.head if recalled else self.peer["returned_to"] - 1) - (came_back - 1)
            else:
                return b"" if ended else None
        while self.dropped:
            data = self.from_tcp(self.dropped)
            if not data:
                return data
            self.dropped -= len(data)
        return self.from_tcp(most)

    def from_ring(self, count):
        base, size = self.peer["ring_base"], self.peer["ring_size"]
        assert MIN_RING <= size <= self.ring_bytes and self.peer["tail"] - self.head <= size
        data = b"".join(bytes(self.into[start:start + len(piece)]) for start, piece in pieces(self.head - base, count, size))
        self.head += count
        self.mine["head"] = self.head
        self.ring("tx_sleep")
        return data

    def call_back(self):
        """The other side's direction moves to TCP, and what is unread in its ring with it."""
        self.mine["recall_at"] = 1 + self.head
        self.mine["flags"] |= WANT_TCP
        self.ring()

    # Both.

    def exchange(self, count, data=None):
        """Sends `data`, or `count` random bytes, and expects them back."""
        data = os.urandom(count) if data is None else data
        assert self.move(data, count) == data

    def move(self, data, count):
        """Sends `data`, and receives `count` bytes or what comes before the end."""
        left, got, ended = memoryview(data), bytearray(), False

        def step():
            nonlocal left, ended
            sent = self.put(left[:random.randint(1, 30000)])
            piece = self.get(min(count - len(got), random.randint(1, 30000))) if len(got) < count else None
            left, ended = left[sent:], piece == b""
            got.extend(piece or b"")
            return sent or piece or ended

        while left or (len(got) < count and not ended):
            if step():
                continue
            words = [word for word, waits in (("rx_sleep", len(got) < count), ("tx_sleep", left)) if waits and self.mine]
            for word in words:
                self.mine[word] += 1
            fence()
            if not step():
                self.sleep(len(got) < count, left and self.sending != "ring")
            for word in words:
                self.mine[word] += 1
        return bytes(got)

    def sleep(self, tcp_in, tcp_out):
        poll = select.poll()
        poll.register(self.tcp, (select.POLLIN if tcp_in else 0) | (select.POLLOUT if tcp_out else 0))
        if self.mine:
            poll.register(self.bell, select.POLLIN)
        self.when_asleep()
        self.when_asleep = lambda: None
        ready = dict(poll.poll(PATIENCE * 1000))
        assert ready, f"nobody wakes us: {self}"
        if self.mine and self.bell in ready:
            self.woken += 1
            try:
                while os.read(self.bell, 4096):
                    pass
            except BlockingIOError:
                pass

    def close(self):
        self.mine["flags"] |= FIN | GONE
        self.tcp.close()
        self.ring()
        self.agent.say(RELEASE, self.id, CLOSED, 0)
        os.close(self.bell)
        os.close(self.peer_bell)


def pieces(at, count, size):
    """The parts of a ring that `count` bytes from offset `at` lie in, each with its range of the bytes."""
    first = min(count, size - at % size) if count else 0
    if first:
        yield at % size, range(0, first)
    if count > first:
        yield 0, range(first, count)
