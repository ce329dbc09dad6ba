"""Doubles that make the world fail, for the tests of this package and of programs that use it."""
