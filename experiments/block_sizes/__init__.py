"""What blocks cost in accuracy, and what they buy in time."""
