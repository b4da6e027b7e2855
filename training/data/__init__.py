"""From data sets as they are distributed to one packed, content-hashed cache and its split."""
