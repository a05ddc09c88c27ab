"""What the noise prediction comes from: diffusion models, prompts and the batched answer to the methods' queries."""
