"""The version of Atoll. The package's metadata are made out of it: to read them would take 2 MB of every process."""

VERSION = "0.1.0"
