# SPDX-License-Identifier: Apache-2.0
# django_items.py: a service with Django, for gunicorn and for mod_wsgi (see PspTest/Channel.pm).
import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of a test",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["pubsubpull_django.Adapter"],
    MIDDLEWARE=["pubsubpull_django.Middleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "CONN_MAX_AGE": 60}},
)
django.setup()


def add(request):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO item (name) VALUES (%s)", [request.GET["name"]])


def plain(request):
    add(request)
    return HttpResponse(status=201)


def twice(request):
    for _ in range(2):
        with transaction.atomic():
            add(request)
    return HttpResponse(status=201)


class Undo(Exception):
    pass


def undone(request):
    for block in (transaction.atomic, lambda: transaction.atomic(savepoint=True)):
        try:
            with block():
                add(request)
                raise Undo
        except Undo:
            pass
    add(request)
    return HttpResponse(status=201)


def failed(request):
    with transaction.atomic():
        add(request)
        raise RuntimeError("on purpose")


def setting(_):
    """Asked of the driver, so that nobody announces anything."""
    connection.ensure_connection()
    with connection.connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(current_setting('pubsubpull.request', true), '')")
        return HttpResponse(cursor.fetchone()[0])


urlpatterns = [
    path("items", plain),
    path("items/twice", twice),
    path("items/undone", undone),
    path("items/failed", failed),
    path("session", setting),
]
application = get_wsgi_application()
