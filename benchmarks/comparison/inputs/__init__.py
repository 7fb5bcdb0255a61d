"""What all contenders are given: a checkpoint and images."""
