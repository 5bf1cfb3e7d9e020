"""What runs work later. Only the modules of this package import a queue."""
