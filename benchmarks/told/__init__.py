"""What a language model is told: what it is worth, what it takes to find, and the memory of it."""
