"""Ingest: files of other formats turned into L0 stores."""
