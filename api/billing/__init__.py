"""The words and rules of billing that several routes share."""
