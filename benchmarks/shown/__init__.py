"""What the README and the docs show: pictures and a recording, made from real runs."""
