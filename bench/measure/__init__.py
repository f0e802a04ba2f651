"""What every suite of bench/ shares."""
