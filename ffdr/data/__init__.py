"""Source datasets that ``ffdr write`` turns into image betons."""
