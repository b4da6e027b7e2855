"""From a data set as it is distributed to one packed, content-hashed cache."""
