"""Identity, codec, links, bearers, sessions and beacons: how messages reach other hosts."""
