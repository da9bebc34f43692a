"""The servers that the demo, the tests and the benchmarks run against: real programs on loopback."""
