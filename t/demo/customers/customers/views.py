# SPDX-License-Identifier: Apache-2.0
# views.py: customers as JSON: list, create, read, replace, delete.
import json

from django.core.exceptions import ValidationError
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views import View

from .models import Customer

WRITABLE = ("name", "email", "city", "country", "notes")


def save(customer, request):
    """Give the customer the request's values; a ValidationError says what is wrong with them."""
    try:
        values = json.loads(request.body)
    except ValueError:
        raise ValidationError("the body is not JSON")
    if not isinstance(values, dict):
        raise ValidationError("the body is not a JSON object")
    for name in WRITABLE:
        setattr(customer, name, values.get(name, ""))
    customer.full_clean()
    customer.save()


class JsonView(View):
    def dispatch(self, request, *args, **kwargs):
        try:
            return super().dispatch(request, *args, **kwargs)
        except ValidationError as error:
            return JsonResponse({"errors": getattr(error, "message_dict", error.messages)}, status=400)


class CustomerList(JsonView):
    def get(self, request):
        return JsonResponse({"customers": [customer.as_dict() for customer in Customer.objects.all()]})

    def post(self, request):
        customer = Customer()
        save(customer, request)
        response = JsonResponse(customer.as_dict(), status=201)
        response["Location"] = reverse("customer", args=[customer.pk])
        return response


class CustomerDetail(JsonView):
    def get(self, request, pk):
        return JsonResponse(get_object_or_404(Customer, pk=pk).as_dict())

    def put(self, request, pk):
        customer = get_object_or_404(Customer, pk=pk)
        save(customer, request)
        return JsonResponse(customer.as_dict())

    def delete(self, request, pk):
        get_object_or_404(Customer, pk=pk).delete()
        return HttpResponse(status=204)
