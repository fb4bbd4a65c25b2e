"""Films and stills of policies before and after gradient steps."""
