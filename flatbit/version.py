"""The version, in one place: records carry it also where the package runs from its source tree, not installed."""

VERSION = "0.1.0"
