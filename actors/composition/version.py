"""The version of Atoll that runs; 0 where it is not installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("atoll")
except PackageNotFoundError:
    VERSION = "0"
