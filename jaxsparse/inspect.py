"""The summary table of an exported file or of a checkpoint: ``python -m jaxsparse.inspect FILE``."""
