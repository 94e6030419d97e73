"""Only the C extension; everything else stands in setup.cfg."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        # optional: without a compiler flipwatch still works, slowly, and says so.
        Extension("checksum._crc32c", ["checksum/_crc32c.c"], extra_compile_args=["-O3"], optional=True)
    ]
)
