"""Soft labels of Fast Knowledge Distillation (Shen & Xing, ECCV 2022) and FerKD, read into reinforced betons."""
