"""Tests of the pure floor: no clock but a number, no randomness but a seed."""
