"""Operations on pixels: those of RandAugment by number and level, and effects by kind and value."""
