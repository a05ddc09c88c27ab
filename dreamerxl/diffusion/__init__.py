"""The noise schedule and the DDIM step: what every distillation method is written in."""
