"""Moves an organisation to another cell: its books, its open holds, and who says where it is."""
