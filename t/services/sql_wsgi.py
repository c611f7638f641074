# SPDX-License-Identifier: Apache-2.0
# sql_wsgi.py: a service that does the SQL in the body of a request, and a subscriber that answers what it is sent with such a request.
import json
import os
import re
import urllib.request
from urllib.parse import parse_qs

from psycopg2.pool import ThreadedConnectionPool

pool = ThreadedConnectionPool(1, 32, "")  # the database is named by PGHOST, PGPORT, PGDATABASE, PGUSER
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def run(sql, envelope):
    connection = pool.getconn()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('pubsubpull.request', %s, true)", (envelope,))
            cursor.execute(sql)
    finally:
        pool.putconn(connection)


# By the first part of the path: what a subscriber passes on of what it got.
def passed_on(how, environ):
    headers = {"Authorization": environ["HTTP_X_AUTHORIZATION"]}
    cause, trace = environ.get("HTTP_PUBSUBPULL_CAUSE"), environ.get("HTTP_TRACEPARENT")
    if how == "cause" and cause:
        headers["PubSubPull-Cause"] = cause
    elif how == "trace" and trace:  # in a span of its own, as instrumentation does
        headers["traceparent"] = re.sub(r"-[0-9a-f]{16}-", "-" + os.urandom(8).hex() + "-", trace)
    return headers


def answer_with_request(how, body, environ):
    events = json.loads(body)
    event = events[-1] if isinstance(events, list) else events
    new = event["new"] or event["changes"][-1]["new"]
    sql = "UPDATE t SET v = v + 1 WHERE id = %d" % new["id"]
    request = urllib.request.Request(os.environ["SQL_URL"], sql.encode(), passed_on(how, environ), method="POST")
    with opener.open(request, timeout=10) as response:
        response.read()


def application(environ, start_response):
    how = environ["PATH_INFO"].split("/")[1]
    query = parse_qs(environ.get("QUERY_STRING", ""))
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    if how in ("cause", "trace", "nothing"):
        answer_with_request(how, body, environ)
    elif body:
        run(body, environ.get("HTTP_PUBSUBPULL_REQUEST", ""))
    start_response(query.get("status", ["200"])[0] + " Done", [("Content-Type", "text/plain")])
    return [b""]
