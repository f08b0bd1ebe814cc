"""The cases, by what goes wrong in them."""
