# SPDX-License-Identifier: Apache-2.0
# urls.py: the customers service's one resource.
from django.urls import include, path

urlpatterns = [path("customers/", include("customers.urls"))]
