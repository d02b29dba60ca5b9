"""Tests of one running server: a package, since pytest then ends its fixtures after the last of its files."""
