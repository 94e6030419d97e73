"""The agent under a real kernel: Debian's own, booted in QEMU, with errors injected as hardware would report them."""
