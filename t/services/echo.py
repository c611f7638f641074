# SPDX-License-Identifier: Apache-2.0
# echo.py: a WSGI application that answers with all that it was told of the request, as JSON.
import json


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: value for name, value in environ.items() if isinstance(value, str)}).encode()]
