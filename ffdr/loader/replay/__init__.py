"""Stored bytes and view records to finished pixels, a batch at a time."""
