"""timm's, torchvision's and one's own models: built, compiled, saved, loaded from files that may be a stranger's."""
