"""What the tests on whole labs share."""
