"""Devices that are reached over a link."""
