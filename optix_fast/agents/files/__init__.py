"""The files of an agent: weights with a card that says what they belong to."""
