# SPDX-License-Identifier: Apache-2.0
# urls.py: /customers/ and /customers/{id}.
from django.urls import path

from . import views

urlpatterns = [
    path("", views.CustomerList.as_view()),
    path("<int:pk>", views.CustomerDetail.as_view(), name="customer"),
]
