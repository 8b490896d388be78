"""Replay: storage holds rows, windows say where a sample may start, samplers choose, Replay puts them together."""
