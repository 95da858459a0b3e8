"""What a beton holds: facts and statistics of images, views and teacher outputs, and pictures of them."""
