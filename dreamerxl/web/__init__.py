"""What visitors see: the page (Gradio), the 3D view (Viser) and the one port that carries both."""
