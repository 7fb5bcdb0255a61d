"""What a model gives: the kinds of output, each with its results, columns, JSON and agreement."""
