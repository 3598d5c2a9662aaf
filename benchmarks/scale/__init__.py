"""What an update costs at a scale that is not at hand: calculated from shapes, never run."""
