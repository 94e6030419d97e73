"""The version, which setup.cfg takes from here: looking it up in the installed package takes half a mebibyte."""

VERSION = "0.1.0"
