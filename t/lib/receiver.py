#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# receiver.py: an HTTP/1.1 server that does as it is told and writes down every request it got.
#
# usage: receiver.py PORT FILE ADDRESS. Commands come as JSON lines on standard input, each is answered by a line.
# FILE gets a line for each request, at arrival, tab-separated: time, connection, requests in flight, method, path,
# headers (JSON), body (with \\ \t \n \r escaped; bytes as Latin-1).
import heapq
import json
import re
import resource
import selectors
import socket
import sys
import time

ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
NEEDS_ESCAPE = re.compile(r"[\\\t\n\r]")
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.I)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.I)
EXPECT = re.compile(rb"\r\nexpect:\s*100-continue", re.I)


class Connection:
    def __init__(self, sock, number):
        self.sock, self.number = sock, number
        self.inbox, self.outbox = b"", b""
        self.busy = False  # an answer is owed: later requests of a pipeline wait
        self.continued = False
        self.closing = False
        self.endless = b""  # sent again and again


class Receiver:
    def __init__(self, port, path, address):
        self.log = open(path, "ab", buffering=1 << 16)
        self.poll = selectors.DefaultSelector()
        self.rules, self.default = [], {"status": 204}
        self.timers, self.ticket = [], 0
        self.in_flight = self.connections = 0
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, port))
        self.listener.listen(4096)
        self.listener.setblocking(False)
        self.poll.register(self.listener, selectors.EVENT_READ, self.accept)
        self.poll.register(sys.stdin.buffer.raw, selectors.EVENT_READ, self.command)
        self.pending = b""

    def run(self):
        while True:
            wait = max(0, self.timers[0][0] - time.monotonic()) if self.timers else None
            for key, mask in self.poll.select(wait):
                if isinstance(key.data, Connection):
                    self.serve(key.data, mask)
                else:
                    key.data()
            while self.timers and self.timers[0][0] <= time.monotonic():
                _, _, connection, rule = heapq.heappop(self.timers)
                self.answer(connection, rule)
            self.log.flush()

    def command(self):
        data = sys.stdin.buffer.raw.read(65536)
        if not data:
            sys.exit(0)
        self.pending += data
        while b"\n" in self.pending:
            line, self.pending = self.pending.split(b"\n", 1)
            rule = json.loads(line)
            if rule.pop("reset", False):
                self.rules, self.default = [], {"status": 204}
            elif rule.get("path") is None and rule.get("match") is None and "times" not in rule:
                self.default = rule
            else:
                if "match" in rule:
                    rule["match"] = re.compile(rule["match"])
                self.rules.insert(0, rule)
            print("ok", flush=True)

    def rule_for(self, path):
        for rule in self.rules:
            if "path" in rule and rule["path"] != path:
                continue
            if "match" in rule and not rule["match"].search(path):
                continue
            if "times" in rule:
                rule["times"] -= 1
                if rule["times"] == 0:
                    self.rules.remove(rule)
            return rule
        return self.default

    def accept(self):
        try:
            while True:
                sock, _ = self.listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                self.poll.register(sock, selectors.EVENT_READ, Connection(sock, self.connections))
        except BlockingIOError:
            pass

    def close(self, c):
        if c.sock is not None:
            self.poll.unregister(c.sock)
            c.sock.close()
            c.sock = None
            if c.busy:
                self.in_flight -= 1

    def serve(self, c, mask):
        if c.sock is None:
            return
        if mask & selectors.EVENT_READ:
            try:
                data = c.sock.recv(262144)
            except BlockingIOError:
                data = None
            except OSError:
                data = b""
            if data == b"":
                return self.close(c)
            c.inbox += data or b""
            self.parse(c)
        if c.sock is not None and mask & selectors.EVENT_WRITE:
            self.flush(c)

    def parse(self, c):
        while c.sock is not None and not c.busy:
            end = c.inbox.find(b"\r\n\r\n")
            if end < 0:
                return
            head = c.inbox[:end]
            if EXPECT.search(head) and not c.continued:
                c.continued = True
                self.send(c, b"HTTP/1.1 100 Continue\r\n\r\n")
            if CHUNKED.search(head):
                body, used = self.dechunk(c.inbox, end + 4)
                if body is None:
                    return
            else:
                length = LENGTH.search(head)
                used = end + 4 + (int(length[1]) if length else 0)
                if len(c.inbox) < used:
                    return
                body = c.inbox[end + 4 : used]
            c.inbox, c.continued, c.busy = c.inbox[used:], False, True
            self.in_flight += 1
            self.record(c, head.decode("latin-1"), body.decode("latin-1"))

    @staticmethod
    def dechunk(data, at):
        body = b""
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                return None, 0
            size = int(data[at:end].split(b";")[0], 16)
            at = end + 2 + size + 2
            if len(data) < at:
                return None, 0
            if size == 0:
                return body, at
            body += data[end + 2 : end + 2 + size]

    def record(self, c, head, body):
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = [line.split(":", 1) for line in lines]
        headers = json.dumps([[name, value.strip()] for name, value in headers])
        if NEEDS_ESCAPE.search(body):
            body = NEEDS_ESCAPE.sub(lambda match: ESCAPES[match[0]], body)
        line = f"{time.time():.6f}\t{c.number}\t{self.in_flight}\t{method}\t{path}\t{headers}\t{body}\n"
        self.log.write(line.encode("latin-1"))
        rule = self.rule_for(path)
        if rule.get("hang"):
            return
        if rule.get("delay"):
            self.after(rule["delay"], c, rule)
        else:
            self.answer(c, rule)

    def after(self, delay, c, rule):
        self.ticket += 1
        heapq.heappush(self.timers, (time.monotonic() + delay, self.ticket, c, rule))

    def answer(self, c, rule):
        if c.sock is None:
            return
        if rule.get("close"):
            return self.close(c)
        if "raw" in rule:
            c.endless = rule.get("endless", "").encode("latin-1")
            self.send(c, rule["raw"].encode("latin-1"))
        else:
            status, body = rule.get("status", 204), rule.get("body", "").encode("latin-1")
            head = f"HTTP/1.1 {status} Told So\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in rule.get("headers", {}).items())
            if status != 204 and status != 304:
                head += f"Content-Length: {len(body)}\r\n"
            self.send(c, head.encode("latin-1") + b"\r\n" + body)
        c.busy = False
        self.in_flight -= 1
        if rule.get("bye"):
            c.closing = True
            self.flush(c)
        elif c.inbox:
            self.parse(c)

    def send(self, c, data):
        c.outbox += data
        self.flush(c)

    def flush(self, c):
        try:
            while c.outbox or c.endless:
                c.outbox = c.outbox or c.endless
                c.outbox = c.outbox[c.sock.send(c.outbox) :]
        except BlockingIOError:
            pass
        except OSError:
            return self.close(c)
        if c.closing and not c.outbox:
            return self.close(c)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if c.outbox else 0)
        if self.poll.get_key(c.sock).events != events:
            self.poll.modify(c.sock, events, c)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    receiver = Receiver(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    print("ok", flush=True)
    receiver.run()
