"""The version, which setup.cfg takes from here: to look it up in the installed package would take most of a mebibyte."""

VERSION = "0.1.0"
