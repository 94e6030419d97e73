"""Bytes in, findings out: record formats, their checksums, and what is wrong with a file."""
