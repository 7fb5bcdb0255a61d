"""From an item to the graph's input: decoding, here or in a child, ahead of the engine."""
