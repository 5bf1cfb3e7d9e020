"""The providers, one module each: what to say to them and how to read their answers. No I/O."""
