"""Price lists as an operator keeps, follows and compares them."""
