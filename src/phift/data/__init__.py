"""The way of the data: from a source through files, formats and the check to the three prepared files."""
