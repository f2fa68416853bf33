"""Which of two models answers better: both are asked the same held-out rows, scored, and compared with statistics."""
