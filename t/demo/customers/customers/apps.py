# SPDX-License-Identifier: Apache-2.0
# apps.py: the customers application.
from django.apps import AppConfig


class CustomersConfig(AppConfig):
    name = "customers"
