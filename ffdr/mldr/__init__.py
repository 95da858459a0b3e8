"""The published form of reinforced data (apple/ml-dr): read into reinforced betons, and written from them."""
