"""Tests of admission: limits and the order of the queue."""
