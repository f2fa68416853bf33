"""Small programs in the place of the training engine, the scorer and the maker of stand-in models."""
