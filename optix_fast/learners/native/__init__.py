"""What the compiled core serves: recognised networks and optimizers, acting."""
