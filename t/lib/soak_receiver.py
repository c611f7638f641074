#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# soak_receiver.py: receiver.py for the soak: below /f/ it fails at random, and it notes each request in few words.
#
# FILE gets a line for each request, before it is answered, tab-separated: time, subscription, method, path, outcome,
# webhook-id, events (id:type:v:columns:key, joined by blanks). The default rule may have "flaky": the share of requests that fail.
import json
import os
import random
import socket
import sys
import time
from urllib.parse import quote

from receiver import Receiver

FAULTS = [
    ("500", {"status": 500, "body": "no"}),
    ("503", {"status": 503, "headers": {"Retry-After": "1"}}),
    ("429", {"status": 429, "headers": {"Retry-After": "1"}}),
    ("hang", {"hang": True}),
    ("close", {"close": True}),
]


def note(event):
    event = event.get("data", event)
    row = event["new"] or event["old"] or {}
    key = ",".join(quote(str(value), safe="") for value in (event["key"] or {}).values())
    return f"{event['id']}:{event['type']}:{row.get('v', '')}:{','.join(sorted(row))}:{key}"


class SoakReceiver(Receiver):
    def __init__(self, port, path, address):
        super().__init__(port, path, address)
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def outcome(self, c, path):
        try:
            if c.sock.recv(1, socket.MSG_PEEK) == b"":
                return "gone", {"close": True}  # it gave up waiting for us, so it never happened
        except BlockingIOError:
            pass
        except OSError:
            return "gone", {"close": True}
        if path.startswith("/f/") and random.random() < self.default.get("flaky", 0):
            return random.choice(FAULTS)
        if path.startswith("/f/") and random.random() < self.default.get("flaky", 0) / 4:
            return "204", {"status": 204, "delay": random.random() * 2}
        return "204", {"status": 204}

    def record(self, c, head, body):
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        word, rule = self.outcome(c, path)
        body = body.encode("latin-1").decode()
        try:
            events = json.loads(body) if body else []
        except ValueError:
            word, events = f"no JSON: {body!r}", []
        notes = " ".join(note(event) for event in (events if isinstance(events, list) else [events]))
        line = "\t".join([f"{time.time():.6f}", headers["pubsubpull-subscription"], method, path, word, headers["webhook-id"], notes])
        os.write(self.fd, (line + "\n").encode())
        if rule.get("hang"):
            return
        if rule.get("delay"):
            self.after(rule["delay"], c, rule)
        else:
            self.answer(c, rule)


if __name__ == "__main__":
    receiver = SoakReceiver(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    print("ok", flush=True)
    receiver.run()
