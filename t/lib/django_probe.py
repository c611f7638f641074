# SPDX-License-Identifier: Apache-2.0
# django_probe.py: a Django service in one file whose views tell what pubsubpull.request is in their session.
import json
import os
import threading

from django.conf import settings

settings.configure(
    SECRET_KEY="probe",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["pubsubpull_django.Adapter"],
    MIDDLEWARE=["pubsubpull_django.Middleware"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "CONN_MAX_AGE": 60,
            "ATOMIC_REQUESTS": bool(os.environ.get("PROBE_ATOMIC_REQUESTS")),
        }
    },
)

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

import pubsubpull_django  # noqa: E402


def show():
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(current_setting('pubsubpull.request', true), ''), pg_backend_pid()")
        return cursor.fetchone()[0]


def behind():
    """The same, asked of the driver: what the session holds when nobody announced anything."""
    connection.ensure_connection()
    with connection.connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(current_setting('pubsubpull.request', true), '')")
        return cursor.fetchone()[0]


def plain(request):
    return JsonResponse({"seen": [show(), show()], "backend": connection.connection.info.backend_pid})


def atomic(request):
    with transaction.atomic():
        seen = [show()]
    return JsonResponse({"seen": seen + [show()]})


def twice(request):
    seen = []
    for _ in range(2):
        with transaction.atomic():
            seen.append(show())
    return JsonResponse({"seen": seen})


def rollback(request):
    """A rollback takes away what was set inside its transaction; the next statement must say it again."""
    seen = []
    for _ in range(2):
        try:
            with transaction.atomic():
                seen.append(show())
                raise KeyError
        except KeyError:
            seen.append(show())
    return JsonResponse({"seen": seen})


def savepoint(request):
    seen = []
    with transaction.atomic():
        try:
            with transaction.atomic():
                seen.append(show())
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1 / 0")
        except Exception:
            seen.append(show())
        with transaction.atomic():
            seen.append(show())
    return JsonResponse({"seen": seen + [show()]})


def failure(request):
    show()
    with transaction.atomic():
        show()
        raise RuntimeError("on purpose")


def nothing(request):
    return JsonResponse({"seen": []})


def broken(request):
    """The session ends in the middle of a request."""
    seen = [show()]
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        except Exception:
            connection.close()
    return JsonResponse({"seen": seen + [show()]})


def job(request):
    """Work that goes on in another thread, with and without the request carried along."""
    envelope, seen = pubsubpull_django.current(), []

    def work():
        seen.append(show())
        with pubsubpull_django.request(envelope):
            seen.append(show())
        seen.append(show())
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return JsonResponse({"seen": seen})


VIEWS = [plain, atomic, twice, rollback, savepoint, failure, nothing, broken, job]
urlpatterns = [path(view.__name__, view) for view in VIEWS]
django = get_wsgi_application()


def application(environ, start_response):
    """The same thread's session before and after each request, beside what Django answers."""
    if environ["PATH_INFO"] == "/behind":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"seen": [behind(), show()]}).encode()]
    return django(environ, start_response)
