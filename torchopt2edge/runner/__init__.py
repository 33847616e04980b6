"""The program that measures on a device, without torch."""
