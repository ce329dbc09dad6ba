"""Doubles and test data for the tests of this package and of programs that use it; nothing of the engine imports them."""
