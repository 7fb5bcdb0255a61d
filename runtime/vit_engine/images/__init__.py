"""From an item to the input of the graph: decoding, in this process or an isolated one."""
