"""The runtimes' own benchmark tools: how to call them, and what they print turned into rows."""
