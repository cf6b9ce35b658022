"""The command line: `dqo train`, `sample`, `eval`, `compare` and `doctor`."""
