"""What a shop needs to have something to tell: orders."""

from django.conf import settings
from django.db import models


class Order(models.Model):
    """An order, whose buyer hears of each change of its status."""

    class Status(models.TextChoices):
        PAID = "paid"
        SHIPPED = "shipped"
        DELIVERED = "delivered"

    buyer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="orders")
    item = models.CharField(max_length=100)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.PAID)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return f"Order {self.pk}: {self.item} ({self.status})"
