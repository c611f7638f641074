#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# dns.py: a name server that answers as it is told, or not at all, and writes down what it was asked.
#
# usage: dns.py ADDRESS FILE. Listens on port 53 of ADDRESS (UDP). Names come as JSON lines on standard input, each is
# answered by a line: {"name": "x.test", "answers": [["192.0.2.1", "::1"], …]}: one list for each look-up of an address
# family in turn, the last one for good; {"name": …, "hang": true}: no answer at all. Unknown names do not exist.
import ipaddress
import json
import selectors
import socket
import struct
import sys

TYPES = {1: 4, 28: 6}


def question(data):
    labels, at = [], 12
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii"))
        at += 1 + data[at]
    return ".".join(labels).lower(), struct.unpack("!H", data[at + 1 : at + 3])[0], at + 5


def record(address):
    packed = address.packed
    return b"\xc0\x0c" + struct.pack("!HHIH", 1 if address.version == 4 else 28, 1, 0, len(packed)) + packed


class Server:
    def __init__(self, address, path):
        self.log = open(path, "a", buffering=1)
        self.names, self.asked = {}, {}
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((address, 53))

    def command(self):
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        told = json.loads(line)
        self.names[told["name"]] = told
        print("ok", flush=True)

    def reply(self):
        data, peer = self.sock.recvfrom(1500)
        name, kind, end = question(data)
        told = self.names.get(name)
        self.log.write(f"{name} {kind}\n")
        if told and told.get("hang"):
            return
        answers, code = [], 0 if told else 3
        if told and kind in TYPES:
            turn = self.asked[name, kind] = self.asked.get((name, kind), -1) + 1
            lists = told["answers"]
            found = map(ipaddress.ip_address, lists[min(turn, len(lists) - 1)])
            answers = [record(address) for address in found if address.version == TYPES[kind]]
        head = data[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(answers), 0, 0)
        self.sock.sendto(head + data[12:end] + b"".join(answers), peer)

    def run(self):
        poll = selectors.DefaultSelector()
        poll.register(sys.stdin, selectors.EVENT_READ, self.command)
        poll.register(self.sock, selectors.EVENT_READ, self.reply)
        while True:
            for key, _ in poll.select():
                key.data()


if __name__ == "__main__":
    server = Server(sys.argv[1], sys.argv[2])
    print("ok", flush=True)
    server.run()
