"""One update of the weights: what is learned from, the loss, the optimiser, the step."""
