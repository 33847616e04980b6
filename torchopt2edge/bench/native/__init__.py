"""The native runner: the loop of `bench.runner` as one C program, and how it is built."""
