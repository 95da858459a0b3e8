"""What ``eval.results`` asks for: predictions of each image, the confusion of classes, and the worst mistakes."""
