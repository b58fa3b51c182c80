"""Figures that people are asked to draw, spirals and waves, by made-up hands that shake or not."""
