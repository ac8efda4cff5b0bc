"""The version of the package, that of Tasuki."""

VERSION = "0.1.0"
