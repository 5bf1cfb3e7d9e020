"""The whole of what a site writes to push from a model signal."""

from django.db.models.signals import post_save
from django.dispatch import receiver

from django_push import enqueue_push
from shop.models import Order


@receiver(post_save, sender=Order)
def tell_buyer(sender, instance, **kwargs):
    """Tell the buyer, on every device that they have, once the order is committed."""
    enqueue_push(
        instance.buyer,
        title=f"Order {instance.pk} is {instance.status}",
        body=instance.item,
        data={"order": instance.pk},
        collapse_key=f"order-{instance.pk}",
    )
