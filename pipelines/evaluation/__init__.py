"""Models judged beside each other on downstream tasks."""
