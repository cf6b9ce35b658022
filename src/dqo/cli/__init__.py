"""The command line: `dqo train`, `sample`, `eval`, `compare`, `sweep`, `report`, `watch` and `doctor`."""
