"""From files to pixels in shared memory: decoder processes that the event loop serves."""
