# SPDX-License-Identifier: Apache-2.0
# models.py: a customer.
from django.db import models


class Customer(models.Model):
    name = models.CharField(max_length=200)
    email = models.EmailField(unique=True)
    city = models.CharField(max_length=100)
    country = models.CharField(max_length=100)
    notes = models.TextField(blank=True, default="")  # nobody else's business

    class Meta:
        ordering = ["id"]

    def __str__(self):
        return self.name

    def as_dict(self):
        return {field.name: getattr(self, field.name) for field in self._meta.fields}
