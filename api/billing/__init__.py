"""Does the billing that routes share: allocations, purchases, moves, live balances, audit."""
