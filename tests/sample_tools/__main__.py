"""Fetches the tools and says where they are."""

from tests.sample_tools import build, folder

build()
print(folder())
