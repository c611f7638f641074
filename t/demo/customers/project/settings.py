# SPDX-License-Identifier: Apache-2.0
# settings.py: of the customers service. The database is named by libpq's own variables (PGHOST, PGPORT, PGUSER).
import os

DEBUG = False
SECRET_KEY = os.environ.get("CUSTOMERS_SECRET_KEY", "of the demonstration only")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = ["customers"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("PGDATABASE", "app"),
        "CONN_MAX_AGE": int(os.environ.get("CUSTOMERS_CONN_MAX_AGE", "60")),
        "ATOMIC_REQUESTS": bool(os.environ.get("CUSTOMERS_ATOMIC_REQUESTS")),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
APPEND_SLASH = False

# All that mod_pubsubpull asks of a Django service (tests leave it out by an empty CUSTOMERS_ADAPTER):
if os.environ.get("CUSTOMERS_ADAPTER", "yes"):
    INSTALLED_APPS += ["pubsubpull_django.Adapter"]
    MIDDLEWARE.insert(0, "pubsubpull_django.Middleware")
