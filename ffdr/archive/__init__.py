"""Archives of reinforced data that strangers made: read as plain data, checked, and written as one reinforced beton."""
