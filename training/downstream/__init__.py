"""What a pre-trained model is worth: tasks, their datasets, heads, losses and metrics."""
