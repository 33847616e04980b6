"""Measures candidates in turns: rounds, timing presets, batching, flags, throttling."""
