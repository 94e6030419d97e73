"""Only the C extensions; everything else stands in setup.cfg."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        # optional: without a compiler flipwatch still works, slowly, and says so.
        Extension(
            "checksum._crc32c",
            [f"checksum/{name}.c" for name in ("_crc32c", "_framing", "_kernels", "_leveldb", "_locate", "_tfrecord")],
            depends=["checksum/_native.h"],
            extra_compile_args=["-O3", "-fvisibility=hidden"],
            optional=True,
        ),
        # x86-64 and ARMv8-A only; without it there is no canary, which is said where it's asked for.
        Extension(
            "agent._canary", ["agent/_canary.c"], extra_compile_args=["-O3", "-fvisibility=hidden"], optional=True
        ),
    ]
)
