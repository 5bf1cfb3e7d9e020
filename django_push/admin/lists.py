"""What keeps a list fast at a million rows: a count that stops, and an order that an index has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property

if TYPE_CHECKING:
    BasePaginator = Paginator[Any]
else:
    BasePaginator = Paginator


class CappedCount(int):
    """A count that was stopped: a number to page by, shown as ``10000+``."""

    def __str__(self) -> str:
        # Django groups digits from the right, where a plus sign would be counted as one.
        return f"≥{int(self)}" if settings.USE_THOUSAND_SEPARATOR else f"{int(self)}+"


class CappedPaginator(BasePaginator):
    """Counts no further than ``max_count``; what lies behind is reached by filters and the search."""

    max_count = 10_000

    @cached_property
    def count(self) -> int:
        if not isinstance(self.object_list, QuerySet):
            return len(self.object_list)
        found = self.object_list.order_by()[: self.max_count + 1].count()
        return CappedCount(self.max_count) if found > self.max_count else found


class IndexedChangeList(ChangeList):
    """Takes no order from the URL but that of a column in ``sortable_by``.

    Django's own leaves the others' headers without a link, yet obeys a URL that names them.
    """

    def get_ordering_field(self, field_name: Any) -> Any:
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None
