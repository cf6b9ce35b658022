"""The command line: `dqo train`, `sample`, `eval`, `compare`, `sweep`, `report` and `doctor`."""
