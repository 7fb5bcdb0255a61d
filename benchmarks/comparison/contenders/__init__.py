"""The contenders' code; contenders.toml says who takes part and where."""
