"""Opacity tables: the container, its readers, and the tables that come with the package."""
