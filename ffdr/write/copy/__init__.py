"""Betons made of other betons: samples are copied as they are stored."""
