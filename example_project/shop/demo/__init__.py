"""What ``manage.py demo`` shows: ``orders``, one push to each buyer, and ``newsletter``, a broadcast."""
