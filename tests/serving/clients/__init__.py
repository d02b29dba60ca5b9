"""Tests of the clients that people use, against one server: it starts once for all of them."""
