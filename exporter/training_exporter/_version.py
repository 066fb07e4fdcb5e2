"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("training-exporter")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"
