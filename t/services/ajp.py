# SPDX-License-Identifier: Apache-2.0
# ajp.py: serves a WSGI application by AJP 1.3, as far as mod_proxy_ajp speaks it: ajp.py PORT module:application
import importlib
import io
import socketserver
import struct
import sys

METHODS = [None, "OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE"]
HEADERS = [None, "ACCEPT", "ACCEPT_CHARSET", "ACCEPT_ENCODING", "ACCEPT_LANGUAGE", "AUTHORIZATION", "CONNECTION",
           "CONTENT_TYPE", "CONTENT_LENGTH", "COOKIE", "COOKIE2", "HOST", "PRAGMA", "REFERER", "USER_AGENT"]
FORWARD, BODY, HEAD, END, PING, PONG = 2, 3, 4, 5, 10, 9
CODED_HEADER, QUERY_STRING, NAMED_ATTRIBUTE, KEY_SIZE, LAST_ATTRIBUTE = 0xA0, 5, 10, 11, 0xFF


class Packet(io.BytesIO):
    def number(self, form):
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def text(self):
        length = self.number(">H")
        if length == 0xFFFF:
            return None
        value = self.read(length).decode("latin-1")
        self.read(1)
        return value

    def header(self):
        coded = self.number(">H")
        if coded >> 8 == CODED_HEADER:
            return HEADERS[coded & 0xFF]
        self.seek(-2, io.SEEK_CUR)
        return self.text().upper().replace("-", "_")


def text(value):
    data = value.encode("latin-1")
    return struct.pack(">H", len(data)) + data + b"\0"


def environment(packet):
    environ = {"REQUEST_METHOD": METHODS[packet.number("B")], "SERVER_PROTOCOL": packet.text(), "SCRIPT_NAME": "",
               "PATH_INFO": packet.text(), "QUERY_STRING": "", "REMOTE_ADDR": packet.text(), "REMOTE_HOST": packet.text(),
               "SERVER_NAME": packet.text(), "SERVER_PORT": str(packet.number(">H")), "wsgi.version": (1, 0),
               "wsgi.url_scheme": "https" if packet.number("B") else "http", "wsgi.multithread": True,
               "wsgi.multiprocess": False, "wsgi.run_once": False, "wsgi.errors": sys.stderr}
    for _ in range(packet.number(">H")):
        name, value = packet.header(), packet.text()
        environ[name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name] = value
    while (kind := packet.number("B")) != LAST_ATTRIBUTE:
        if kind == NAMED_ATTRIBUTE:
            packet.text()
        value = packet.number(">H") if kind == KEY_SIZE else packet.text()
        if kind == QUERY_STRING:
            environ["QUERY_STRING"] = value
    return environ


class Handler(socketserver.StreamRequestHandler):
    def packet(self):
        head = self.rfile.read(4)
        return Packet(self.rfile.read(struct.unpack(">2xH", head)[0])) if len(head) == 4 else None

    def send(self, kind, payload=b""):
        self.wfile.write(b"AB" + struct.pack(">HB", len(payload) + 1, kind) + payload)

    def start_response(self, status, headers, exc_info=None):
        code, reason = status.split(" ", 1)
        fields = b"".join(text(name) + text(value) for name, value in headers)
        self.send(HEAD, struct.pack(">H", int(code)) + text(reason) + struct.pack(">H", len(headers)) + fields)

    def handle(self):
        while packet := self.packet():
            kind = packet.number("B")
            if kind == PING:
                self.send(PONG)
            elif kind == FORWARD:
                self.forward(environment(packet))

    def forward(self, environ):
        body = b""
        if int(environ.get("CONTENT_LENGTH") or 0):  # one packet of it comes unasked, and is all that is taken
            packet = self.packet()
            body = packet.read(packet.number(">H"))
        environ["wsgi.input"] = io.BytesIO(body)
        answer = self.server.application(environ, self.start_response)
        for chunk in answer:
            if chunk:
                self.send(BODY, struct.pack(">H", len(chunk)) + chunk + b"\0")
        if hasattr(answer, "close"):
            answer.close()
        self.send(END, b"\1")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    module, name = sys.argv[2].split(":")
    with Server(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.application = getattr(importlib.import_module(module), name)
        server.serve_forever()
