# SPDX-License-Identifier: Apache-2.0
# comms.py: the service that writes to people. It is sent calls of the customers service, and welcomes whoever was created by one.
import json
import re

welcomed = set()  # requests that were seen: a call may come twice


def welcome(call):
    for change in call["changes"]:
        if change["type"] == "insert":
            customer = change["new"]
            print(f"comms: mail to {customer['email']}: Welcome, {customer['name']}! ({call['request']['user']} signed you up.)", flush=True)


def application(environ, start_response):
    match = re.fullmatch(r"/welcome/([0-9a-f-]{36})", environ["PATH_INFO"])
    if match and environ["REQUEST_METHOD"] == "PUT":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        print("comms got PUT", environ["PATH_INFO"], body.decode(), flush=True)
        if match[1] not in welcomed:
            welcomed.add(match[1])
            welcome(json.loads(body))
        start_response("204 No Content", [])
        return [b""]
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"not here\n"]
