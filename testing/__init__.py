"""What ships for testing: the simulator, its faults, and the namespace lab."""
