"""The workflow: configuration, executors and the crossview command."""
